"""Sealing: derivable, repeatable, incremental, and honest about what does not belong."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import store
from store import errors
from store.cache import sealed_tables
from store.cache.dataset import Dataset
from store.format.manifest import SCHEMA
from store.format.trailer import Trailer
from store.sealing import manifest_writer
from store.verify.verify import verify
from tests.store.builders import add_teacher, fill, make_dataset, tokens_of, write_pixels, write_tokens

SEALED = ("manifest", "seal", "features.zarr/bedlam/t/status", "features.zarr/bedlam/t/statistics")


def sealed_bytes(path: Path) -> dict[str, bytes]:
    files = [file for part in SEALED for file in (path / part).rglob("*") if file.is_file()]
    files.append(path / "features.zarr/bedlam/pixels_status/c.0")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture
def trailers_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every (array, shard) whose trailer was read."""
    seen: list[tuple[str, int]] = []
    read = Dataset.read_trailer

    def spy(self: Dataset, array: str, shard: int) -> Trailer:
        seen.append((array, shard))
        return read(self, array, shard)

    monkeypatch.setattr(Dataset, "read_trailer", spy)
    return seen


@pytest.mark.parametrize("group_rows", [2**20, 4])
def test_sealing_shard_by_shard_gives_the_bytes_of_sealing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    monkeypatch.setattr(manifest_writer, "GROUP_ROWS", group_rows)
    dataset = make_dataset(tmp_path / "steps", images=9, views=2)
    shutil.copytree(tmp_path / "steps", tmp_path / "once")  # of the same uuid
    for shard in (2, 0, 4, 3, 1):
        write_pixels(dataset, shard, failed=[3, 9])
        store.seal(tmp_path / "steps")
        write_tokens(dataset, shard, failed=[3, 9, 10])
        store.seal(tmp_path / "steps")
    fill(store.open(tmp_path / "once")["bedlam"], failed_pixels=[3, 9], failed_tokens=[10])
    report = store.seal(tmp_path / "once")
    assert sealed_bytes(tmp_path / "steps") == sealed_bytes(tmp_path / "once")
    assert report.complete
    pixels, tokens = report.arrays
    assert (pixels.ok, pixels.failed, pixels.reasons) == (16, 2, {"decode": 2})
    assert (tokens.ok, tokens.failed, tokens.reasons) == (15, 3, {"overflow": 3})
    assert dataset.valid_rows(["t"]).tolist() == [row for row in range(18) if row not in (3, 9, 10)]


def test_sealing_again_reads_only_what_is_new(tmp_path: Path, trailers_read: list[tuple[str, int]]) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 0)
    write_pixels(dataset, 2)
    store.seal(tmp_path)
    trailers_read.clear()
    before = sealed_bytes(tmp_path)
    assert not any(array.changed for array in store.seal(tmp_path).arrays)
    assert trailers_read == []
    assert sealed_bytes(tmp_path) == before
    write_pixels(dataset, 1)
    store.seal(tmp_path)
    assert trailers_read == [("pixels", 1)]
    assert dataset.manifest(columns=["row"])["row"].to_pylist() == list(range(10))


def test_a_mixture_of_two_seals_is_noticed_and_repaired(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 0)
    store.seal(tmp_path)
    old_status = (tmp_path / "features.zarr/bedlam/pixels_status/c.0").read_bytes()
    write_pixels(dataset, 1)
    store.seal(tmp_path)
    (tmp_path / "features.zarr/bedlam/pixels_status/c.0").write_bytes(old_status)  # a slower seal wrote last
    assert store.seal(tmp_path).arrays[0].changed
    assert dataset.status("pixels").tolist() == [1] * 8 + [0] * 2


def test_a_seal_writes_a_damaged_document_of_its_tables_again(tmp_path: Path) -> None:
    fill(make_dataset(tmp_path))
    cache = store.open(tmp_path)
    store.seal(cache)
    path = tmp_path / "features.zarr/bedlam/t/status/zarr.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"row", b"raw"))
    assert [array.changed for array in store.seal(cache).arrays] == [False, True]
    assert path.read_bytes() == whole
    assert not any(array.changed for array in store.seal(cache).arrays)
    assert verify(tmp_path).ok


def test_between_the_tables_of_a_seal_readers_are_not_told_of_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 0)
    store.seal(tmp_path)
    write_pixels(dataset, 1)
    write_small_array = sealed_tables.write_small_array

    def stopped(*arguments: Any, **named: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sealed_tables, "write_small_array", stopped)  # the manifest is new, the status is not
    with pytest.raises(KeyboardInterrupt):
        store.seal(tmp_path)
    assert dataset.manifest(columns=["row"])["row"].to_pylist() == list(range(8))
    report = verify(tmp_path)
    assert report.problems == ()
    assert any("a seal runs, or did not end" in note for note in report.notes)
    monkeypatch.setattr(sealed_tables, "write_small_array", write_small_array)
    store.seal(tmp_path)
    assert dataset.status("pixels").tolist() == [1] * 8 + [0] * 2
    assert not any("a seal runs" in note for note in verify(tmp_path).notes)


def test_manifest_selects_columns_and_rows(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset, failed_pixels=[5])
    store.seal(tmp_path)
    table = dataset.manifest(columns=["path", "error"], filter=pc.field("status") == 2)
    assert table.to_pydict() == {"path": ["folder/2.png"], "error": ["decode: broken"]}
    with pytest.raises(errors.InvalidInput, match=r"no column \['pth'\]"):
        dataset.manifest(columns=["pth"])
    everything = pq.read_table(tmp_path / "manifest/bedlam.parquet")
    assert everything.schema.equals(SCHEMA)


def test_statistics_are_those_of_the_stored_values(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset, failed_tokens=[4])
    store.seal(tmp_path)
    values = np.stack([tokens_of(row) for row in range(10) if row != 4]).astype(np.float64)
    statistics = dataset.statistics("t")
    assert statistics.prefix is not None
    for moments, part in ((statistics.prefix, values[:, :1]), (statistics.patch, values[:, 1:])):
        flat = part.reshape(-1, part.shape[-1])
        np.testing.assert_allclose(moments.mean, flat.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.std, flat.std(axis=0), rtol=1e-12)
        np.testing.assert_array_equal([moments.min, moments.max], [flat.min(axis=0), flat.max(axis=0)])


def test_tokens_of_other_pixels_are_left_out_and_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    store.seal(tmp_path)
    (tmp_path / "features.zarr/bedlam/pixels/c.1.0.0.0").unlink()
    write_pixels(dataset, 1, failed=[6])
    with pytest.raises(errors.Damaged, match="shard 1 of 'bedlam/t' was computed from other pixels"):
        store.seal(tmp_path)
    assert dataset.status("pixels").tolist() == [1] * 6 + [2] + [1] * 3
    assert dataset.status("t").tolist() == [1] * 4 + [0] * 4 + [1] * 2
    assert dataset.statistics("t").patch.count[0] == 6 * 6


def test_a_shard_copied_from_elsewhere_is_left_out_and_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    add_teacher(dataset, "u", identity={"model": "other"})
    fill(dataset)
    folder = tmp_path / "features.zarr/bedlam"
    shutil.copy(folder / "t/tokens/c.0.0.0", folder / "t/tokens/c.1.0.0")
    shutil.copy(folder / "t/tokens/c.2.0.0", folder / "u/tokens/c.2.0.0")
    with pytest.raises(errors.Damaged) as caught:
        store.seal(tmp_path)
    assert "shard 1 of 'bedlam/t' belongs elsewhere: shard: expected 1, found 0" in str(caught.value)
    assert "shard 2 of 'bedlam/u' belongs elsewhere: array: expected u, found t; identity digest" in str(caught.value)
    assert dataset.status("t").tolist() == [1] * 4 + [0] * 4 + [1] * 2


def test_coarse_channels_are_warned_of(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    info = add_teacher(dataset, "flat", identity={"model": "flat"})
    rng = np.random.default_rng(0)
    for shard in range(dataset.shards):
        write_pixels(dataset, shard)
        digest = dataset.read_trailer("pixels", shard).digest
        with dataset.write_shard("flat", shard, provenance={}, pixels_digest=digest) as writer:
            for _ in dataset.shard_rows_of(shard):
                row: Any = rng.standard_normal((7, info.channels))
                row[1:, 3] = 1000 + row[1:, 3]  # spacing of float16 near 1000 is 0.5
                writer.append(row.astype(np.float16))
            writer.finish()
    (warning,) = store.seal(tmp_path).warnings
    assert "'bedlam/flat'" in warning
    assert "of patch tokens in channels 3" in warning


def test_without_a_seal_the_error_names_the_command(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for ask in (lambda: dataset.status("t"), lambda: dataset.statistics("t"), dataset.manifest):
        with pytest.raises(errors.NotSealed, match=f"codistill store seal {tmp_path}"):
            ask()
    store.seal(tmp_path)  # nothing to collect yet
    with pytest.raises(errors.NotSealed):
        dataset.valid_rows([])


def test_damaged_sealed_tables_are_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    store.seal(tmp_path)
    for name in ("features.zarr/bedlam/t/status/c.0", "features.zarr/bedlam/t/statistics/c.0.0.0"):
        data = bytearray((tmp_path / name).read_bytes())
        data[3] ^= 1
        (tmp_path / name).write_bytes(data)
    for ask in (lambda: dataset.status("t"), lambda: dataset.statistics("t")):
        with pytest.raises(errors.Damaged, match="codistill store seal"):
            ask()
    store.seal(tmp_path)
    assert dataset.status("t").tolist() == [1] * 10
