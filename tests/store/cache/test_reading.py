"""Random reads: order, duplicates, buffers, what is refused, and bounds on open files."""

import gc
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import store
from store import errors
from store.storage.local import LocalStorage
from store.storage.open_files import DescriptorBudget
from tests.store.builders import (
    CHANNELS,
    IMAGE_SIZE,
    fill,
    make_dataset,
    pixels_of,
    read_rows,
    tokens_of,
    write_array,
    write_pixels,
    write_tokens,
)

GOLDEN = Path(__file__).parents[2] / "golden/store"
TOKENS = "features.zarr/bedlam/t/tokens"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> store.Dataset:
    dataset = make_dataset(tmp_path_factory.mktemp("sealed"))
    fill(dataset)
    store.seal(dataset.storage.location)
    return dataset


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 9), max_size=40), verify=st.booleans())
def test_rows_come_in_the_order_asked_for(sealed: store.Dataset, rows: list[int], verify: bool) -> None:
    read = sealed.read(rows, ["t", "pixels"], verify=verify)
    assert read["t"].shape == (len(rows), 7, CHANNELS)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(read["t"][i], tokens_of(row))
        np.testing.assert_array_equal(read["pixels"][i], pixels_of(row))


def test_rows_go_into_the_callers_buffers(sealed: store.Dataset) -> None:
    shared = np.zeros((6, 7, CHANNELS), np.float16)
    read = sealed.read([8, 1], ["t", "pixels"], out={"t": shared[2:4]})
    assert np.shares_memory(read["t"], shared)
    np.testing.assert_array_equal(shared[2:4], [tokens_of(8), tokens_of(1)])
    assert not shared[:2].any()
    assert not shared[4:].any()


@pytest.mark.parametrize(
    ("cache", "dataset"), [("cache-v1", "people"), ("cache-jpeg", "rooms"), ("cache-codes", "people")]
)
@pytest.mark.parametrize("raw", [False, True])
def test_rows_go_to_their_places_in_longer_buffers(cache: str, dataset: str, raw: bool) -> None:
    """Of all forms: raw pixels, JPEG, float16 tokens, codes as stored and decoded."""
    opened = store.open(GOLDEN / cache / "cache")[dataset]
    names = ["pixels", *opened.teachers]
    rows = np.tile(opened.valid_rows(names)[::-1], 3)[:3]  # there are two in some
    plain = opened.read(rows, names, raw=raw)
    longer = {name: np.full((6, *values.shape[1:]), 7, values.dtype) for name, values in plain.items()}
    opened.read(rows, names, out=longer, raw=raw, places=np.array([5, 1, 2]))
    for name, values in plain.items():
        np.testing.assert_array_equal(longer[name][[5, 1, 2]], values)
        assert (longer[name][[0, 3, 4]] == 7).all()


@pytest.mark.parametrize(
    ("places", "message"),
    [([0, 1], "expected 3 integers"), ([0, 1, 1], "different numbers from 0 to 3"), ([0, 1, 4], "from 0 to 3")],
)
def test_places_that_do_not_exist_or_repeat_are_refused(sealed: store.Dataset, places: list[int], message: str) -> None:
    buffer = np.zeros((4, 7, CHANNELS), np.float16)
    with pytest.raises(errors.InvalidInput, match=message):
        sealed.read([0, 1, 2], ["t"], out={"t": buffer}, places=np.array(places))
    with pytest.raises(errors.InvalidInput, match="no buffer 'pixels'"):
        sealed.read([0, 1, 2], ["t", "pixels"], out={"t": buffer}, places=np.arange(3))


def test_buffers_that_do_not_fit_are_refused(sealed: store.Dataset) -> None:
    good = np.zeros((2, 7, CHANNELS), np.float16)
    read_only = good.copy()
    read_only.flags.writeable = False
    for bad, message in (
        (good[:1], r"expected float16 \(2, 7, 5\), found float16 \(1, 7, 5\)"),
        (good.astype(np.float32), "found float32"),
        (np.zeros((2, CHANNELS, 7), np.float16).transpose(0, 2, 1), "C-contiguous"),
        (read_only, "read-only"),
    ):
        with pytest.raises(errors.InvalidInput, match=message):
            sealed.read([0, 1], ["t"], out={"t": bad})
    with pytest.raises(errors.InvalidInput, match=r"\['pixels'\] were not asked for"):
        sealed.read([0, 1], ["t"], out={"pixels": good})


@pytest.mark.parametrize(
    ("rows", "message"),
    [([0, 10], "rows 10 are not in 'bedlam', which has 0..9"), ([-1], "rows -1"), ([0.5], "integers"), (3, "integers")],
)
def test_row_numbers_that_do_not_exist_are_refused(sealed: store.Dataset, rows: Any, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message):
        sealed.read(rows, ["t"])


def test_unknown_names_list_the_known(sealed: store.Dataset) -> None:
    with pytest.raises(errors.MissingName, match="no array 'dino'; available: pixels, t"):
        sealed.read([0], ["dino"])


@pytest.mark.parametrize("seal", [True, False])
def test_rows_not_ok_are_listed(tmp_path: Path, seal: bool) -> None:
    dataset = make_dataset(tmp_path)
    for shard in (0, 1):
        write_pixels(dataset, shard, failed=[5])
    write_tokens(dataset, 1, failed=[5, 6])
    if seal:
        store.seal(tmp_path)
    with pytest.raises(errors.RowsNotOk, match=r"rows 0, 5, 6, 9 are not ok \(2 failed, 2 missing\)") as caught:
        dataset.read([9, 6, 7, 5, 0, 6], ["t"])
    assert caught.value.rows == (0, 5, 6, 9)
    assert "--teachers t" in str(caught.value)
    np.testing.assert_array_equal(dataset.read([7, 4], ["t"])["t"], [tokens_of(7), tokens_of(4)])


def test_shards_that_arrive_after_a_seal_can_be_read_at_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 0)
    store.seal(tmp_path)
    with pytest.raises(errors.RowsNotOk):
        dataset.read([4], ["pixels"])
    write_pixels(dataset, 1)
    np.testing.assert_array_equal(dataset.read([4, 0], ["pixels"])["pixels"], [pixels_of(4), pixels_of(0)])


def test_tokens_of_other_pixels_are_refused_without_a_seal_and_after_one(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 0)
    with dataset.write_shard("t", 0, provenance={}, pixels_digest="00" * 32) as writer:
        for row in dataset.shard_rows_of(0):
            writer.append(tokens_of(row))
        writer.finish()
    message = "shard 0 of 'bedlam/t' was computed from other pixels than are stored"
    with pytest.raises(errors.Damaged, match=message):
        dataset.read([1], ["pixels", "t"])
    with pytest.raises(errors.Damaged, match=message):
        store.seal(tmp_path)
    with pytest.raises(errors.Damaged, match=message):
        store.open(tmp_path)["bedlam"].read([1], ["t"])


def test_a_sealed_shard_that_has_gone_names_the_command(tmp_path: Path) -> None:
    fill(make_dataset(tmp_path))
    store.seal(tmp_path)
    (tmp_path / TOKENS / "c.1.0.0").unlink()
    command = f"codistill extract run CATALOGUE.toml --cache {tmp_path} --datasets bedlam --teachers t"
    with pytest.raises(errors.MissingShard, match=f"shard 1 of 'bedlam/t' does not exist. Run: {command}"):
        store.open(tmp_path)["bedlam"].read([0, 5], ["t"])


def test_a_flipped_bit_is_found_unless_not_asked_for(tmp_path: Path) -> None:
    fill(make_dataset(tmp_path))
    store.seal(tmp_path)
    path = tmp_path / TOKENS / "c.1.0.0"
    data = bytearray(path.read_bytes())
    data[2 * 74 + 11] ^= 4  # row 6
    path.write_bytes(data)
    dataset = store.open(tmp_path)["bedlam"]
    with pytest.raises(errors.Damaged, match="shard 1 of 'bedlam/t': checksum of row 6 differs"):
        dataset.read([0, 6, 7], ["t"])
    with pytest.raises(errors.Damaged, match="row 6"):
        dataset.read_shard("t", 1)
    assert dataset.read([6], ["t"], verify=False)["t"].shape == (1, 7, CHANNELS)
    path.write_bytes(data[: 2 * 74 + 30])
    with pytest.raises(errors.Damaged, match="cut short at or behind row 6"):
        store.open(tmp_path)["bedlam"].read([6], ["t"], verify=False)


def test_swapped_slots_are_intact_but_differ_from_the_trailer(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    path = tmp_path / TOKENS / "c.0.0.0"
    data = path.read_bytes()
    path.write_bytes(data[74:148] + data[:74] + data[148:])
    with pytest.raises(errors.Damaged, match="checksum of row 0, 1 differs"):
        dataset.read_shard("t", 0)


def test_a_whole_shard_needs_no_seal(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 1, failed=[5])
    shard = dataset.read_shard("pixels", 1)
    assert shard.status.tolist() == [1, 2, 1, 1]
    assert shard.data.shape == (4, IMAGE_SIZE, IMAGE_SIZE, 3)
    np.testing.assert_array_equal(shard.data[3], pixels_of(7))
    assert not shard.data[1].any()
    assert shard.trailer.errors == {5: "decode: broken"}
    write_tokens(dataset, 1, failed=[5])
    assert np.isnan(dataset.read_shard("t", 1).data[1]).all()
    with pytest.raises(errors.MissingShard, match="shard 0 of 'bedlam/pixels' does not exist"):
        dataset.read_shard("pixels", 0)
    with pytest.raises(errors.InvalidInput, match="no shard 3, it has 3"):
        dataset.read_shard("pixels", 3)


def test_open_files_are_bounded_and_closed(tmp_path: Path) -> None:
    def open_files() -> int:
        links = (f"/proc/self/fd/{descriptor}" for descriptor in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link).startswith(str(tmp_path)) for link in links if os.path.lexists(link))

    values = np.arange(60, dtype=np.float32).reshape(30, 2)
    storage = LocalStorage(tmp_path, budget=DescriptorBudget(lambda: 4))
    node = write_array(storage, "a", values, shard_rows=2)
    rows = np.random.default_rng(0).integers(0, 30, 200)
    np.testing.assert_array_equal(read_rows(storage, node, rows), values[rows])
    assert 1 <= open_files() <= 4
    del storage, node
    gc.collect()
    assert open_files() == 0


def test_datasets_travel_to_other_processes(sealed: store.Dataset) -> None:
    copy = pickle.loads(pickle.dumps(sealed))
    np.testing.assert_array_equal(copy.read([3], ["t"])["t"], sealed.read([3], ["t"])["t"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads
        child = os.fork()
    if child == 0:  # threads do not survive a fork; reading must
        os._exit(0 if sealed.read(list(range(10)), ["t", "pixels"]) else 1)
    assert os.waitpid(child, 0)[1] == 0
