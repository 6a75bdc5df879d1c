"""Extraction with `pixels = "jpeg"`: teachers see the decoded pixels, and kills and rival jobs change nothing."""

import shutil
import signal
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest

import store
from extract.catalogue import load_catalogue
from extract.recompute import recomputer
from store.format import jpeg
from store.format.schema import OK
from store.verify.repair import repair
from store.verify.verify import verify
from tests.children import context
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of
from tests.extract.children import Meet, finish, start
from tests.points import WRITE, Kill, Point
from tests.store.damage import flip

KILLS = [(WRITE, 1), (WRITE, 6), ("fsync", 1), ("link", 1), ("link", 2), ("unlink", 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue with a broken image."""
    builders.image_folder(tmp_path / "images", 11)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    small_catalogue(tmp_path, recipe='pixels = "jpeg"')
    return tmp_path


def test_teachers_see_the_decoded_pixels_and_repairs_make_them_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue, location = folder / "catalogue.toml", folder / "cache"
    assert run_extract(catalogue, "--cache", location, "--batch-size", 3) == 0
    raw = folder / "raw.toml"
    raw.write_text(catalogue.read_text().replace('pixels = "jpeg"\n', ""))
    assert run_extract(raw, "--cache", folder / "raw", "--stages", "index,views") == 0
    cache = store.open(location)
    dataset, unencoded = cache["pictures"], store.open(folder / "raw")["pictures"]
    rows = dataset.valid_rows(["pixels", "first"])
    assert len(rows) == 22
    seen = dataset.read(rows, ["pixels"])["pixels"]
    for before, after in zip(unencoded.read(rows, ["pixels"])["pixels"], seen, strict=True):
        expected = np.empty_like(before)
        jpeg.decode(jpeg.encoded(before).data, expected)
        np.testing.assert_array_equal(after, expected)
        assert not np.array_equal(after, before)
    maker = recomputer(cache, catalogue=catalogue, device="cpu")
    shard, provenance = dataset.read_shard("pixels", 1), dataset.read_trailer("first", 1).provenance
    usable = np.flatnonzero(shard.status == OK).tolist()
    tokens = list(maker.tokens(dataset, "first", pixels=shard, positions=usable, provenance=provenance))
    np.testing.assert_array_equal(np.stack(tokens), dataset.read_shard("first", 1).data[usable])
    before = tree_of(location)
    flip(location / "features.zarr/pictures/pixels/c.0.0.0.0", 900)
    assert repair(location, verify(location), catalogue=catalogue).left == []
    assert tree_of(location) == before
    assert run_extract(raw, "--cache", location) == 2
    assert "recipe.pixels: stored 'jpeg', asked" in capsys.readouterr().err


def test_killed_while_pixels_are_written(folder: Path) -> None:
    store.create(folder / "undisturbed", load_catalogue(folder / "catalogue.toml").recipe.stored())
    shutil.copytree(folder / "undisturbed", folder / "disturbed")
    assert finish(folder, "undisturbed", "--stages", "index,views") == 0
    assert finish(folder, "disturbed", "--stages", "index") == 0
    for name, number in KILLS:
        kill = Kill(point=Point(folder=folder / "disturbed", names=(name,), number=number))
        assert finish(folder, "disturbed", "--stages", "views", prepare=kill) == -signal.SIGKILL
    for cache in ("disturbed", "undisturbed"):
        assert finish(folder, cache, "--stages", "views,seal") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")


def test_two_jobs_publish_the_same_shards_at_once(folder: Path) -> None:
    store.create(folder / "undisturbed", load_catalogue(folder / "catalogue.toml").recipe.stored())
    shutil.copytree(folder / "undisturbed", folder / "disturbed")
    assert finish(folder, "undisturbed", "--stages", "index,views") == 0
    shards = [f"features.zarr/pictures/pixels/c.{shard}.0.0.0" for shard in range(3)]
    barriers = {shard: context().Barrier(2) for shard in shards}
    meeting = Meet(folder=folder / "disturbed", barriers=barriers)
    jobs = [start(folder, "disturbed", "--stages", "index,views", prepare=meeting) for _ in range(2)]
    wait([job.sentinel for job in jobs])
    for barrier in barriers.values():
        barrier.abort()  # the first to end has passed all; one that failed leaves nobody waiting
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0], (folder / "disturbed.txt").read_text()
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")
