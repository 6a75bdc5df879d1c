"""Recomputed rows equal the stored rows; what is missing for that is named."""

from pathlib import Path

import numpy as np
import pytest

import store
from extract.recompute import recomputer
from store import errors
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    builders.image_folder(tmp_path / "images", 5)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    assert run_extract(small_catalogue(tmp_path), "--cache", tmp_path / "cache", "--batch-size", 3) == 0
    return tmp_path


def test_rows_are_the_stored_ones(folder: Path) -> None:
    cache = store.open(folder / "cache")
    dataset = cache["pictures"]
    maker = recomputer(cache, catalogue=folder / "catalogue.toml", device="cpu")
    manifest = dataset.manifest().to_pylist()
    rows = [7, 0, 3, 2, 5, 11]
    for row, made in zip(rows, maker.pixels(dataset, rows), strict=True):
        stored = manifest[row]
        assert {name: made.record.get(name) for name in stored} == stored
        assert made.error == stored["error"]
        if made.pixels is not None:
            np.testing.assert_array_equal(made.pixels, dataset.read([row], ["pixels"])["pixels"][0])
    shard, provenance = dataset.read_shard("pixels", 1), dataset.read_trailer("first", 1).provenance
    for recorded in (provenance, {}):
        usable = np.flatnonzero(shard.status).tolist()
        tokens = list(maker.tokens(dataset, "first", pixels=shard, positions=usable, provenance=recorded))
        np.testing.assert_array_equal(np.stack(tokens), dataset.read_shard("first", 1).data[usable])
        assert maker.provenance(dataset, "first") == provenance
    assert maker.provenance(dataset, "pixels") == dataset.read_trailer("pixels", 1).provenance


def test_what_is_needed_is_reported(folder: Path) -> None:
    cache = store.open(folder / "cache")
    dataset = cache["pictures"]
    with pytest.raises(errors.MissingFile, match="--catalogue"):
        list(recomputer(cache, catalogue=None, device="cpu").pixels(dataset, [0]))
    builders.teacher_weights(folder / "first.safetensors", seed=9)
    maker = recomputer(cache, catalogue=folder / "catalogue.toml", device="cpu")
    with pytest.raises(errors.Conflict, match="another teacher"):
        list(maker.tokens(dataset, "first", pixels=dataset.read_shard("pixels", 0), positions=[0], provenance={}))
    (folder / "catalogue.toml").write_text((folder / "catalogue.toml").read_text().replace("views = 2", "views = 1"))
    with pytest.raises(errors.InvalidConfig, match="views: stored 2, asked 1"):
        list(recomputer(cache, catalogue=folder / "catalogue.toml", device="cpu").pixels(dataset, [0]))
