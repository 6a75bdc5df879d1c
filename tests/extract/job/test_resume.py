"""A job that is killed at any call, stopped or starved of space loses the shards under way and nothing else."""

import os
import shutil
import signal
from multiprocessing.connection import wait
from pathlib import Path

import pytest

import store
from extract.catalogue import load_catalogue
from store.storage import publish
from tests.children import context
from tests.extract import builders
from tests.extract.builders import dataset_entry, run_extract, small_catalogue, tree_of
from tests.extract.children import FileLimit, HoldUntilStopped, Meet, finish, made, start
from tests.points import WRITE, Kill, Point, Record
from tests.thoroughness import cases, some_of

TEMPORARY = "*.tmp*"
ROUNDS = cases(thorough=3, usual=1)
# What one round of kills can publish at most: a killed process had made `number - 1` of these calls; a shard needs one
# of each and 17 writes, and two are under way. So SHARDS are enough for every kill of the rounds to happen.
ROUND = [("open", 2), (WRITE, 5), (WRITE, 40), ("fsync", 2), ("link", 1), ("link", 2), ("unlink", 1)]
ROUND_PUBLISHES_AT_MOST = 1 + 0 + 2 + 1 + 0 + 1 + 2
SHARDS = ROUNDS * ROUND_PUBLISHES_AT_MOST + 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue with a broken image, and two caches that are the same so far, down to their uuid."""
    return prepared(tmp_path, images=21)


def prepared(tmp_path: Path, *, images: int, views: int = 2) -> Path:
    """The same with so many images and views of each, in shards of eight."""
    builders.image_folder(tmp_path / "images", images)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    catalogue = small_catalogue(tmp_path, datasets=dataset_entry("pictures", f"views = {views}"))
    store.create(tmp_path / "undisturbed", load_catalogue(catalogue).recipe.stored())
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "disturbed")
    return tmp_path


@pytest.mark.parametrize("stage", ["index", "seal"])
def test_killed_at_each_call_of_a_short_stage(stage: str, tmp_path: Path) -> None:
    folder = prepared(tmp_path, images=3)
    begun, undisturbed, killed = folder / "begun", folder / "undisturbed", folder / "disturbed"
    if stage == "seal":
        assert finish(folder, "undisturbed", "--stages", "index,views,features") == 0
    shutil.copytree(undisturbed, begun)
    record = Record(folder=undisturbed, file=folder / "calls.txt")
    assert finish(folder, "undisturbed", "--stages", stage, prepare=record) == 0
    for number in some_of(record.numbers(), every=3):
        shutil.rmtree(killed)
        shutil.copytree(begun, killed)
        kill = Kill(point=Point(folder=killed, number=number))
        assert finish(folder, "disturbed", "--stages", stage, prepare=kill) == -signal.SIGKILL
        assert run_extract(folder / "catalogue.toml", "--cache", killed, "--stages", stage) == 0
        for directory in [path for path in killed.rglob("*") if path.is_dir()]:
            publish.sweep(directory)  # as the next seal does
        assert tree_of(killed) == tree_of(undisturbed), f"killed at call {number}"


def test_killed_again_and_again(tmp_path: Path) -> None:
    folder = prepared(tmp_path, images=SHARDS - 1, views=8)
    assert finish(folder, "undisturbed") == 0
    assert finish(folder, "disturbed", "--stages", "index") == 0
    for stage in ("views", "features"):
        for name, number in ROUND * ROUNDS:
            kill = Kill(point=Point(folder=folder / "disturbed", names=(name,), number=number))
            assert finish(folder, "disturbed", "--stages", stage, prepare=kill) == -signal.SIGKILL
        assert finish(folder, "disturbed", "--stages", stage) == 0
    assert finish(folder, "disturbed") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")
    assert max(made(folder / "disturbed.jsonl").values()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("array", ["pixels", "tokens"])
def test_stopped_in_order(folder: Path, array: str, number: signal.Signals) -> None:
    """In the middle of a shard."""
    point = Point(folder=folder / "disturbed", names=(WRITE,), part=f"/{array}/c.1.", number=9)
    arrived, arriving = context().Pipe(duplex=False)
    child = start(folder, "disturbed", prepare=HoldUntilStopped(point=point, arrived=arriving))
    arriving.close()
    unfinished = arrived.recv()  # raises if the child ends before it is there
    os.kill(int(child.pid or 0), number)
    child.join()
    assert child.exitcode == 130
    assert "run the same command again to go on" in (folder / "disturbed.txt").read_text()
    assert not list((folder / "disturbed").rglob(TEMPORARY))
    assert not Path(unfinished.partition(".tmp~")[0]).exists()
    assert finish(folder, "disturbed") == 0
    assert finish(folder, "undisturbed") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")


def test_no_space_left(folder: Path) -> None:
    """A limit on file size stands in for a full disk: the write fails in the middle of a shard."""
    assert finish(folder, "disturbed", prepare=FileLimit(size_bytes=10_000)) == 1
    output = (folder / "disturbed.txt").read_text()
    assert "could not be made: [Errno 27] File too large" in output
    assert "then run the same command again" in output
    assert not list((folder / "disturbed").rglob("c.*"))
    assert finish(folder, "disturbed") == 0
    assert finish(folder, "undisturbed") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")


def test_two_jobs_at_once(folder: Path) -> None:
    """Both make every shard and publish it in the same moment."""
    assert finish(folder, "undisturbed") == 0
    cache = folder / "disturbed"
    shards = [str(path.relative_to(folder / "undisturbed")) for path in (folder / "undisturbed").rglob("c.*")]
    racing = [shard for shard in shards if "/pixels/" in shard or "/tokens/" in shard]
    assert len(racing) == 12
    barriers = {shard: context().Barrier(2) for shard in racing}
    jobs = [start(folder, "disturbed", prepare=Meet(folder=cache, barriers=barriers)) for _ in range(2)]
    wait([job.sentinel for job in jobs])
    for barrier in barriers.values():
        barrier.abort()  # the first to end has passed all; one that failed leaves nobody waiting
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0], (folder / "disturbed.txt").read_text()
    assert tree_of(cache) == tree_of(folder / "undisturbed")
    for published in (True, False):
        counts = made(folder / "disturbed.jsonl", published=published)
        assert len(counts) == 12
        assert set(counts.values()) == {1}
