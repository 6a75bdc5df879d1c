"""Creating and opening: the same again is nothing, anything else is refused with both values shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import store
from store import errors
from tests.store.builders import (
    add_teacher,
    fill,
    image_list,
    make_dataset,
    manifest_rows,
    pixels_of,
    rewrite_document,
    tokens_of,
)

RECIPE = {"image_size": 6, "shard_rows": 4, "views": {"flip": 0.5, "scale": (0.4, 1.0)}}


def create_dataset(cache: store.Cache, **changes: Any) -> store.Dataset:
    arguments: dict[str, Any] = {
        "images": image_list(5),
        "group": "people",
        "split": "train",
        "mode": "train",
        "views": 2,
        "source": {"pattern": "*.png"},
    }
    return cache.create_dataset("bedlam", **(arguments | changes))


def test_creating_the_same_again_changes_no_byte(tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    cache = store.create(tmp_path, RECIPE)
    add_teacher(create_dataset(cache))
    before = content()
    again = store.create(str(tmp_path), RECIPE)
    info = add_teacher(create_dataset(again))
    assert content() == before
    assert again.uuid == cache.uuid
    assert (info.patch_grid, info.prefix_tokens, info.channels, info.groups) == ((2, 3), 1, 5, ("people",))
    dataset = store.open(tmp_path)["bedlam"]
    assert (dataset.rows, dataset.images, dataset.views, dataset.shards, dataset.image_size) == (10, 5, 2, 3, 6)
    assert list(dataset.shard_rows_of(2)) == [8, 9]
    assert dataset.image_list().equals(image_list(5).cast(dataset.image_list().schema))
    assert dataset.teachers == ("t",)


def test_another_recipe_is_refused_with_both_values(tmp_path: Path) -> None:
    store.create(tmp_path, RECIPE)
    with pytest.raises(errors.Conflict, match=r"recipe.views.flip: stored 0.5, asked 0.25"):
        store.create(tmp_path, RECIPE | {"views": {"flip": 0.25, "scale": (0.4, 1.0)}})
    with pytest.raises(errors.InvalidInput, match=r"recipe.shard_rows: expected an integer from 1 to 1048576, found 0"):
        store.create(tmp_path / "other", {"image_size": 6, "shard_rows": 0})


def test_another_dataset_or_image_list_is_refused_with_both_values(tmp_path: Path) -> None:
    cache = store.create(tmp_path, RECIPE)
    create_dataset(cache)
    with pytest.raises(errors.Conflict, match=r"views: stored 2, asked 3"):
        create_dataset(cache, views=3)
    with pytest.raises(errors.Conflict, match=r"source.pattern: stored '\*.png', asked '\*.jpg'"):
        create_dataset(cache, source={"pattern": "*.jpg"})
    renamed = image_list(5).set_column(1, "path", pa.array([f"moved/{i}.png" for i in range(5)]))
    with pytest.raises(errors.Conflict, match=r"stored: .*folder/0.png.*, asked: .*moved/0.png"):
        create_dataset(cache, images=renamed)
    with pytest.raises(errors.Conflict, match="stored: 5 images, asked: 6"):
        create_dataset(cache, images=image_list(6))


def test_another_teacher_is_refused_with_both_values(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for change, message in (
        ({"identity": {"model": "tiny", "weights": "xyz"}}, "identity.weights: stored 'abc', asked 'xyz'"),
        ({"groups": ["scenes"]}, r"groups: stored \['people'\], asked \['scenes'\]"),
        ({"channels": 6}, r"shape: stored \[10, 7, 5\], asked \[10, 7, 6\]"),
        ({"patch_grid": (3, 2)}, r"patch_grid: stored \[2, 3\], asked \[3, 2\]"),
    ):
        with pytest.raises(errors.Conflict, match=message):
            add_teacher(dataset, **change)


@pytest.mark.parametrize("name", ["Bedlam", "a/b", "..", "__x", "", "pixels", "status", "a.b"])
def test_names_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    cache = store.create(tmp_path, RECIPE)
    with pytest.raises(errors.InvalidInput, match="dataset name"):
        cache.create_dataset(name, images=image_list(1), group="g", split="val", mode="center", views=1)
    with pytest.raises(errors.InvalidInput, match="teacher name"):
        add_teacher(create_dataset(cache), name)


def test_image_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cache = store.create(tmp_path, RECIPE)
    for table, message in (
        (image_list(0), "has no images"),
        (image_list(3).drop_columns(["bytes"]), "column 'bytes' is absent"),
        (image_list(3).slice(1), "must be 0, 1, 2"),
    ):
        with pytest.raises(errors.InvalidInput, match=message):
            create_dataset(cache, images=table)
    assert cache.datasets == ()


def test_a_folder_that_is_not_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingCache, match=r"no cache at .*nowhere"):
        store.open(tmp_path / "nowhere")
    cache = store.create(tmp_path, RECIPE)
    create_dataset(cache)
    with pytest.raises(errors.MissingName, match=r"no dataset 'bedlm' in .*; available: bedlam"):
        cache["bedlm"]
    with pytest.raises(errors.InvalidInput, match="ftp://"):
        store.open("ftp://somewhere/else")


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("requires", ["rotated_basis"])])
def test_a_cache_of_a_newer_version_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    store.create(tmp_path, RECIPE)
    rewrite_document(
        tmp_path / "features.zarr/zarr.json", lambda document: document["attributes"]["codistill"].update({key: value})
    )
    with pytest.raises(errors.UnsupportedFormat, match="newer codistill"):
        store.open(tmp_path)


def test_the_writer_takes_only_the_rows_of_its_shard(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with dataset.write_shard("pixels", 2, provenance={}) as writer:
        with pytest.raises(errors.InvalidInput, match=r"row 8: expected uint8 \(6, 6, 3\), found float64 \(6, 6, 3\)"):
            writer.append(np.zeros((6, 6, 3)))
        writer.append(pixels_of(8))
        with pytest.raises(errors.InvalidInput, match="1 of 2 rows given"):
            writer.finish(manifest_rows(dataset, [8, 9]))
        writer.fail("decode: broken")
        with pytest.raises(errors.InvalidInput, match="all 2 rows were given"):
            writer.append(pixels_of(9))
        for table, message in (
            (None, "manifest is required"),
            (manifest_rows(dataset, [0, 1], failed=[1]), "'row' must be these rows"),
            (manifest_rows(dataset, [8, 9]), r"'status' differs from what was written in rows \[9\]"),
            (manifest_rows(dataset, [8, 9], failed=[9]).drop_columns(["flip"]), "column 'flip' is absent"),
        ):
            with pytest.raises(errors.InvalidInput, match=message):
                writer.finish(table)
        assert writer.finish(manifest_rows(dataset, [8, 9], failed=[9]))
    with pytest.raises(errors.InvalidInput, match="pixels_digest is required"):
        dataset.write_shard("t", 0, provenance={})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tokens_that_are_not_finite_are_refused_and_can_be_failed(tmp_path: Path, value: float) -> None:
    dataset = make_dataset(tmp_path)
    bad = tokens_of(8)
    bad[3, 2] = value
    with dataset.write_shard("t", 2, provenance={}, pixels_digest="00" * 32) as writer:
        with pytest.raises(errors.InvalidInput, match="row 8: a value is not finite"):
            writer.append(bad)
        writer.fail("overflow: 1 value")
        writer.append(tokens_of(9))
        assert writer.finish()
    assert dataset.read_trailer("t", 2).status.tolist() == [2, 1]
    assert (tmp_path / "features.zarr/bedlam/t/tokens/c.2.0.0").read_bytes()[:74] == bytes(74)


def test_a_deleted_teacher_or_dataset_can_be_created_again(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    store.seal(tmp_path)
    dataset.delete_teacher("t")
    assert dataset.teachers == ()
    add_teacher(dataset, channels=6)
    cache = store.open(tmp_path)
    cache.delete_dataset("bedlam")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "features.zarr/zarr.json"]
    assert create_dataset(cache, images=image_list(7)).rows == 14
