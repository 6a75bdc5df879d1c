"""`codistill store info` opens with one sentence that says whether all is well."""

import errno
import json
import os
from pathlib import Path

import pytest

import store
from store.__main__ import main
from store.format.schema import manifest_key
from store.inspection.health import is_well, sentence
from store.inspection.info import inspect
from store.storage.local import LocalStorage
from tests.store import caches, damage
from tests.store.damage import FLOWERS
from tests.train.builders import build_cache


def said(root: Path) -> str:
    return sentence(inspect(store.open(root)))


def test_complete_and_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path / "cache")
    expected = "All is well: 3 datasets with 22 rows and 2 teachers are complete and sealed."
    assert main(["info", str(tmp_path / "cache")]) == 0
    assert capsys.readouterr().out.startswith(expected + "\n")
    assert main(["info", str(tmp_path / "cache"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentence"] == expected


def test_failed_rows_are_told_with_the_command_that_lists_them(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    assert said(root).startswith(
        "Complete and sealed, but 2 rows failed in flowers/pixels, flowers/dino ("  # one without pixels counts once
    )
    assert f"(codistill store failures {root})" in said(root)
    assert is_well(inspect(store.open(root)))


def test_what_is_missing_or_unsealed_is_told_with_its_command(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    store.create(root, {"image_size": 28, "shard_rows": 4, "seed": 0})
    assert said(root) == (f"Empty: there are no datasets yet. Run: codistill extract run CATALOGUE.toml --cache {root}")
    begun = tmp_path / "begun"
    cache = caches.create_datasets(begun)
    caches.write_pixels(cache, FLOWERS, 0)
    found = said(begun)
    assert found.startswith("Not all is well: ")
    assert f"(codistill extract run CATALOGUE.toml --cache {begun})" in found
    assert f"not sealed: flowers/pixels (codistill store seal {begun})" in found
    assert found.count(".") == found.count(".toml") + found.count(str(begun)) * str(begun).count(".") + 1
    assert not is_well(inspect(cache))


def test_damage_is_told_first(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    damage.flip_sealed_status(root)
    damage.shard_path(root, "mast", 0).unlink()
    found = said(root)
    assert found.startswith("Not all is well: 2 shards or tables damaged or gone in ")
    assert f"(codistill store verify {root} --repair)" in found
    assert "flowers/mast" in found


@pytest.mark.parametrize(
    ("table", "kept_bytes"),
    [
        ("manifest/flowers.parquet", 0),
        ("manifest/flowers.parquet", None),
        ("seal/flowers.dino.safetensors", 100),
        ("seal/flowers.pixels.safetensors", 100),
        ("features.zarr/flowers/dino/statistics/c.0.0.0", 100),
        ("features.zarr/flowers/dino/statistics/c.0.0.0", None),
        ("images/flowers.parquet", 100),
    ],
)
def test_a_sealed_table_that_is_cut_or_gone_is_told(tmp_path: Path, table: str, kept_bytes: int | None) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    file = root / table
    if kept_bytes is None:
        file.unlink()
    else:
        damage.overwrite(file, file.read_bytes()[:kept_bytes])
    array = "dino" if "dino" in table else "pixels"
    assert said(root).startswith(f"Not all is well: 1 shards or tables damaged or gone in flowers/{array} (")


def test_a_table_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    before = LocalStorage.read_last

    def read_last(storage: LocalStorage, key: str, *arguments: int) -> bytes:
        if key == manifest_key("flowers"):  # modes do not keep root out
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), key)
        return before(storage, key, *arguments)

    monkeypatch.setattr(LocalStorage, "read_last", read_last)
    assert said(root).startswith("Not all is well: 1 shards or tables damaged or gone in flowers/pixels (")
    assert main(["info", str(root)]) == 0
    assert "cannot be read: permission denied" in " ".join(capsys.readouterr().out.split())
