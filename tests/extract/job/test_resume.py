"""A job that is killed at any moment, stopped or starved of space loses the shards under way and nothing else."""

import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

import store
from extract.catalogue import load_catalogue
from tests.extract import builders
from tests.extract.builders import small_catalogue, tree_of
from tests.extract.children import finish, made, start

FEWEST_KILLS = 24
TEMPORARY = "*.tmp*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue with a broken image, and two caches that are the same so far, down to their uuid."""
    return prepared(tmp_path, images=21)


def prepared(tmp_path: Path, *, images: int) -> Path:
    """The same with so many images, two views of each in shards of eight."""
    builders.image_folder(tmp_path / "images", images)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    catalogue = small_catalogue(tmp_path)
    store.create(tmp_path / "undisturbed", load_catalogue(catalogue).recipe.stored())
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "disturbed")
    return tmp_path


def wait_for_changes(cache: Path, changes: int, child: ForkServerProcess) -> None:
    """Until so many files were seen to come or go, or the job ends by itself."""
    before = {str(path) for path in cache.rglob("*")}
    while changes > 0 and child.is_alive():
        time.sleep(0.002)
        now = {str(path) for path in cache.rglob("*")}
        changes -= len(now ^ before)
        before = now


@pytest.mark.timeout(900)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    folder = prepared(tmp_path, images=56)
    assert finish(folder, "undisturbed") == 0
    random.seed(20)
    kills = 0
    while True:
        child = start(folder, "disturbed")
        wait_for_changes(folder / "disturbed", random.randint(1, 4), child)
        time.sleep(random.uniform(0, 0.02))
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        kills += 1
    assert kills >= FEWEST_KILLS
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")
    assert max(made(folder / "disturbed.jsonl").values()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_order(folder: Path, number: signal.Signals) -> None:
    child = start(folder, "disturbed")
    wait_for_changes(folder / "disturbed", 12, child)
    os.kill(int(child.pid or 0), number)
    child.join()
    assert child.exitcode == 130
    assert "run the same command again to go on" in (folder / "disturbed.txt").read_text()
    assert not list((folder / "disturbed").rglob(TEMPORARY))


def test_no_space_left(folder: Path) -> None:
    """A limit on file size stands in for a full disk: the write fails in the middle of a shard."""
    full = start(folder, "disturbed", file_limit=10_000)
    full.join()
    assert full.exitcode == 1
    output = (folder / "disturbed.txt").read_text()
    assert "could not be made: [Errno 27] File too large" in output
    assert "then run the same command again" in output
    assert not list((folder / "disturbed").rglob("c.*"))
    assert finish(folder, "disturbed") == 0
    assert finish(folder, "undisturbed") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")


def test_two_jobs_at_once(tmp_path: Path) -> None:
    folder = prepared(tmp_path, images=56)
    jobs = [start(folder, "disturbed"), start(folder, "disturbed")]
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert finish(folder, "undisturbed") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")
    assert set(made(folder / "disturbed.jsonl", published=True).values()) == {1}
    assert made(folder / "disturbed.jsonl", published=False)  # both were at the same shard at least once
