"""Other implementations of Zarr: zarr-python, tensorstore and zarrs read our arrays; we read those of zarr-python."""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
import zarrs  # noqa: F401  (registers its pipeline)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, ZstdCodec

import store
from store import errors
from store.format import schema
from store.storage.local import LocalStorage
from tests.store import caches
from tests.store.builders import fill, make_dataset, pixels_of, read_rows, rewrite_document, tokens_of, write_array

DTYPES = ["uint8", "int8", "uint16", "int32", "float16", "float32", "float64"]
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, int, set[int]]:
    """An array of rows, rows per shard, failed rows."""
    rows = draw(st.integers(1, 9))
    row_shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 100, (rows, *row_shape)).astype(dtype)
    failed = draw(st.sets(st.integers(0, rows - 1)))
    return values, draw(st.integers(1, 6)), failed


def expected(values: np.ndarray, failed: set[int]) -> np.ndarray:
    values = values.copy()
    values[sorted(failed)] = np.nan if values.dtype.kind == "f" else 0
    return values


def read_tensorstore(path: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    array = tensorstore.open(spec, open=True, read=True).result()
    return np.asarray(array.read().result())


@QUICK
@given(case=arrays())
def test_other_implementations_read_our_arrays(case: tuple[np.ndarray, int, set[int]]) -> None:
    values, shard_rows, failed = case
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        node = write_array(storage, "a", values, shard_rows=shard_rows, failed=failed)
        wanted = expected(values, failed)
        path = Path(folder, "a")
        np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], wanted)
        np.testing.assert_array_equal(read_tensorstore(path), wanted)
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], wanted)
        rows = [row for row in [*range(len(values)), 0, len(values) // 2] if row not in failed][::-1]
        for verify in (True, False):
            np.testing.assert_array_equal(read_rows(storage, node, rows, verify=verify), values[rows])


@QUICK
@given(case=arrays(), compressed=st.booleans(), sharded=st.booleans())
def test_arrays_written_by_zarr_python_are_read(
    case: tuple[np.ndarray, int, set[int]], compressed: bool, sharded: bool
) -> None:
    values, shard_rows, _ = case
    with tempfile.TemporaryDirectory() as folder:
        array: Any = zarr.create_array(
            Path(folder, "a"),
            shape=values.shape,
            dtype=values.dtype,
            chunks=(1 if sharded else shard_rows, *values.shape[1:]),
            shards=(shard_rows, *values.shape[1:]) if sharded else None,
            compressors=[ZstdCodec()] if compressed else None,
            serializer=BytesCodec(),
        )
        array[:] = values
        storage = LocalStorage(Path(folder))
        node = schema.parse_array("a", storage.read("a/zarr.json"))
        assert node.layout is None
        rows = [len(values) - 1, *range(len(values)), 0]
        np.testing.assert_array_equal(read_rows(storage, node, rows), values[rows])


def test_the_whole_hierarchy_opens_in_zarr_python(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset, failed_pixels=[5], failed_tokens=[2])
    store.seal(tmp_path)
    root: Any = zarr.open_group(tmp_path / "features.zarr", mode="r")
    group = root["bedlam"]
    assert dict(root.attrs["codistill"]).keys() == {"format", "uuid", "recipe"}
    np.testing.assert_array_equal(group["pixels"][3], pixels_of(3))
    np.testing.assert_array_equal(group["t/tokens"][9], tokens_of(9))
    assert group["pixels_status"][:].tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert group["t/status"][:].tolist() == [1, 1, 2, 1, 1, 2, 1, 1, 1, 1]
    ours = dataset.statistics("t").patch
    np.testing.assert_array_equal(group["t/statistics"][1], [ours.count, ours.mean, ours.m2, ours.min, ours.max])
    np.testing.assert_array_equal(read_tensorstore(tmp_path / "features.zarr/bedlam/t/statistics")[1, 1], ours.mean)


def test_a_teacher_not_written_by_codistill_is_read_through_zarr(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    values = np.random.default_rng(0).standard_normal((dataset.rows, 4, 3)).astype(np.float32)
    array: Any = zarr.create_array(
        tmp_path / "features.zarr/bedlam/other/tokens",
        shape=values.shape,
        dtype=values.dtype,
        chunks=(3, 4, 3),
        attributes={"codistill": {"identity": {"who": "else"}, "groups": [], "patch_grid": [2, 2], "prefix_tokens": 0}},
    )
    array[:] = values
    assert dataset.teachers == ("other", "t")
    assert dataset.teacher("other").channels == 3
    rows = [7, 0, 7]
    read = dataset.read(rows, ["other", "t"])
    np.testing.assert_array_equal(read["other"], values[rows])
    np.testing.assert_array_equal(read["t"], np.stack([tokens_of(row) for row in rows]))


def test_other_implementations_read_codes_and_their_code(tmp_path: Path) -> None:
    caches.make_cache(tmp_path, caches.DATASETS[:1], caches.CODED_TEACHERS)
    flowers = store.open(tmp_path)["flowers"]
    ok = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    for teacher in ("vit", "part"):
        wanted = np.zeros(flowers.array(teacher).shape, np.uint8)
        wanted[ok] = flowers.read(ok, [teacher], raw=True)[teacher]
        path = tmp_path / f"features.zarr/flowers/{teacher}/codes"
        np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], wanted)
        np.testing.assert_array_equal(read_tensorstore(path), wanted)
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], wanted)
        for name, values in flowers.code(teacher).arrays().items():
            np.testing.assert_array_equal(read_tensorstore(path.parent / "code" / name), values)
            np.testing.assert_array_equal(zarr.open_array(path.parent / "code" / name, mode="r")[:], values)
        np.testing.assert_array_equal(read_tensorstore(path.parent / "cosine"), flowers.distortion(teacher).cosine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of dimensions that do not fit one another
        tree: Any = xarray.open_datatree(tmp_path / "features.zarr", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(tree["flowers/vit/distortion"], flowers.distortion("vit").sums)


def test_codes_that_another_program_wrote_are_decoded(tmp_path: Path) -> None:
    caches.make_cache(tmp_path, caches.DATASETS[:1], caches.CODED_TEACHERS[:1])
    ours = store.open(tmp_path)["flowers"]
    expected, place = ours.read([4, 0, 4], ["vit"])["vit"], tmp_path / "features.zarr/flowers/vit/codes"
    about, values = ours.array("vit").attributes, zarr.open_array(place, mode="r")[:]
    shutil.rmtree(place)
    (tmp_path / "seal/flowers.vit.safetensors").unlink()
    array: Any = zarr.create_array(
        place,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(3, values.shape[1]),
        attributes={"codistill": {key: value for key, value in about.items() if key != "layout"}},
    )
    array[:] = values
    np.testing.assert_array_equal(store.open(tmp_path)["flowers"].read([4, 0, 4], ["vit"])["vit"], expected)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "stride": lambda document: document["attributes"]["codistill"]["layout"].update(stride=21),
    "codec": lambda document: document["codecs"][0]["configuration"]["codecs"].append({"name": "zstd"}),
    "fill value": lambda document: document.update(fill_value=1),
    "unknown key": lambda document: document.update(comment="mine"),
    "another's attribute": lambda document: document["attributes"].update(mine=1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_document_that_is_not_the_rendering_of_its_values_is_damaged(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    write_array(LocalStorage(tmp_path), "a", np.zeros((3, 4), np.float32), shard_rows=2)
    rewrite_document(tmp_path / "a/zarr.json", change)
    with pytest.raises(errors.Damaged, match=r"'a/zarr\.json' is not what codistill writes for the values in it"):
        schema.parse_array("a", (tmp_path / "a/zarr.json").read_bytes())


def test_our_tokens_over_pixels_not_written_by_codistill_are_sealed_and_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    pixels = np.stack([pixels_of(row) for row in range(dataset.rows)])
    place = tmp_path / "features.zarr/bedlam/pixels"
    shutil.rmtree(place)
    array: Any = zarr.create_array(place, shape=pixels.shape, dtype=pixels.dtype, chunks=(3, *pixels.shape[1:]))
    array[:] = pixels
    theirs = store.open(tmp_path)["bedlam"]
    assert [report.array for report in store.seal(tmp_path).arrays] == ["t"]
    assert theirs.status("t").tolist() == [1] * theirs.rows
    read = theirs.read([4, 1], ["pixels", "t"])
    np.testing.assert_array_equal(read["pixels"], pixels[[4, 1]])
    np.testing.assert_array_equal(read["t"], np.stack([tokens_of(4), tokens_of(1)]))
