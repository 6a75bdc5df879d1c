"""Shards of pixels stored as JPEG: every damage is found, none is read as good, good rows survive every repair."""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store import errors
from store.cache import jpeg_index
from store.cache.jpeg_index import JpegIndex, JpegIndexes
from store.cache.metadata import DatasetMetadata
from store.format import jpeg, pixels_schema
from store.format.layout import checksum
from store.format.trailer import Trailer, decode
from store.verify.any_shard import check_shard
from store.verify.problems import Kind
from store.verify.repair import repair
from store.verify.shard_check import ShardLocation
from store.verify.verify import verify
from tests.store import caches, fake_recomputer
from tests.store.builders import rewrite_document
from tests.store.caches import contents, same_rows
from tests.store.damage import FLOWERS, INDEX_BYTES, MAST, ROOMS, flip, overwrite, shard_path

TRAILER_FLIPS = 25  # each is corrected, which takes 20 ms


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jpeg") / "cache"
    caches.make_cache(root, jpeg=True)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_recomputer.install(tmp_path / "site", monkeypatch)
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def pixels_path(root: Path, shard: int = 0) -> Path:
    return shard_path(root, "pixels", shard)


def chunk_bounds(data: bytes) -> list[int]:
    """Where chunks begin, and where the last one ends, by the index of a shard."""
    entries = np.frombuffer(data[-INDEX_BYTES:-4], "<u8").reshape(-1, 2)
    present = entries[entries[:, 1] < 2**63]
    return [*present[:, 0].tolist(), int(present[-1].sum())]


def rewritten(data: bytes, change: Callable[[Trailer], Trailer]) -> bytes:
    """The shard with a changed trailer whose checksum is right."""
    end = chunk_bounds(data)[-1]
    trailer = decode(data[end:], where="test", index_bytes=INDEX_BYTES)
    return data[:end] + change(trailer).encode() + data[-INDEX_BYTES:]


def read_of(root: Path) -> dict[int, bytes]:
    """Every row of pixels that a reader is given."""
    dataset = store.open(root)["flowers"]
    rows = dataset.valid_rows(["pixels"]).tolist()
    return {row: dataset.read([row], ["pixels"])["pixels"].tobytes() for row in rows}


def location_of(root: Path, shard: int = 0) -> ShardLocation:
    dataset = store.open(root)["flowers"]
    return ShardLocation.of(dataset, "pixels", shard, paths=dataset.image_list()["path"].combine_chunks())


def kinds(root: Path, shard: int = 0) -> set[Kind]:
    return {problem.kind for problem in check_shard(location_of(root, shard)).problems}


def test_rows_are_what_everybody_decodes_and_tokens_come_from_them(whole: Path) -> None:
    dataset = store.open(whole)["flowers"]
    expected = {}
    for row in dataset.valid_rows(["pixels"]).tolist():
        expected[row] = np.empty((caches.IMAGE_SIZE_PX, caches.IMAGE_SIZE_PX, 3), np.uint8)
        jpeg.decode(jpeg.encoded(caches.pixels_of("flowers", row, 2)).data, expected[row])
    wanted = [9, 0, 5, 0, 8, 1, 4]
    for check in (True, False):
        read = dataset.read(wanted, ["pixels"], verify=check)["pixels"]
        np.testing.assert_array_equal(read, [expected[row] for row in wanted])
    shard = dataset.read_shard("pixels", 0)
    np.testing.assert_array_equal(shard.data[:3], [expected[row] for row in range(3)])
    assert shard.status.tolist() == [1, 1, 1, 2]
    assert not shard.data[3].any()
    tokens = [caches.tokens_of(MAST, expected[row]) for row in (4, 9)]
    np.testing.assert_array_equal(dataset.read([4, 9], ["mast"])["mast"], tokens)
    assert verify(whole).ok


def test_the_digest_is_that_of_the_decoded_pixels(whole: Path) -> None:
    """Raw pixels and JPEG pixels of the same photographs have two digests; raw ones of decoded values have this one."""
    trailer = store.open(whole)["flowers"].read_trailer("pixels", 0)
    pixels = store.open(whole)["flowers"].read_shard("pixels", 0)
    assert trailer.pixels_crc32c is not None
    assert trailer.pixels_crc32c.tolist() == [*(checksum(np.ascontiguousarray(row)) for row in pixels.data[:3]), 0]
    assert trailer.digest == replace(trailer, crc32c=trailer.pixels_crc32c, pixels_crc32c=None).digest
    assert trailer.digest != replace(trailer, pixels_crc32c=None).digest


def flips(data: bytes) -> Iterator[tuple[int, int]]:
    """Some bits of every region: the frame of a chunk, its scan and checksum, the trailer, the index."""
    generator, bounds = random.Random(3), chunk_bounds(data)
    frame = [
        *range(bounds[0], bounds[0] + 24),
        *range(bounds[1] - 8, bounds[1] + 4),
        *range(bounds[-1], bounds[-1] + 8),
    ]
    for offset in [*frame, *range(len(data) - INDEX_BYTES - 12, len(data), 9)]:
        yield from ((offset, 1 << bit) for bit in (0, 3, 7))
    yield from ((offset, 1 << generator.randrange(8)) for offset in range(bounds[0], bounds[-1], 11))
    for _ in range(TRAILER_FLIPS):
        yield generator.randrange(bounds[-1], len(data) - INDEX_BYTES), 1 << generator.randrange(8)


def test_flipped_bits_of_a_shard_are_found(root: Path) -> None:
    data, missed, location = pixels_path(root).read_bytes(), [], location_of(root)
    with pixels_path(root).open("r+b", buffering=0) as file:
        for offset, mask in flips(data):
            os.pwrite(file.fileno(), bytes([data[offset] ^ mask]), offset)
            if not check_shard(location).problems:
                missed.append((offset, mask))
            os.pwrite(file.fileno(), data[offset : offset + 1], offset)
    assert missed == []
    assert not check_shard(location).problems


def test_no_flipped_bit_is_read_as_good_and_repairs_restore_the_bytes(root: Path, whole: Path) -> None:
    generator, expected, before = random.Random(8), read_of(root), contents(whole)
    path = pixels_path(root)
    places = list(flips(path.read_bytes()))
    for offset, mask in generator.sample(places, 24):
        flip(path, offset, mask)
        with contextlib.suppress(errors.Damaged):
            assert read_of(root) == expected
        assert repair(root, verify(root)).left == []
        assert contents(root) == before, (offset, mask)


def cuts(data: bytes) -> list[int]:
    bounds = chunk_bounds(data)
    trailer, index = bounds[-1], len(data) - INDEX_BYTES
    chunks = [0, 1, bounds[1] - 1, bounds[1], bounds[1] + 2, bounds[2] - 4]
    return [*chunks, trailer - 1, trailer, trailer + 5, index - 12, index - 1, index, index + 7, len(data) - 1]


def test_a_shard_that_is_cut_short_anywhere_is_found_and_made_whole(root: Path, whole: Path) -> None:
    path = pixels_path(root)
    data = path.read_bytes()
    for length in cuts(data):
        overwrite(path, data[:length])
        assert kinds(root), length
        with pytest.raises(errors.Damaged):
            read_of(root)
        assert repair(root, verify(root)).left == []
        assert verify(root).ok
        assert same_rows(root, whole)
        overwrite(path, data)  # its trailer says that it was made again where it had been lost


def append_garbage(data: bytes) -> bytes:
    return data + b"garbage"


def insert_bytes(data: bytes) -> bytes:
    end = chunk_bounds(data)[-1]
    return data[:end] + b"1234" + data[end:]


def blank_index(data: bytes) -> bytes:
    return data[:-INDEX_BYTES] + bytes(INDEX_BYTES)


def index_that_calls_a_failed_row_ok(data: bytes) -> bytes:
    entries = np.frombuffer(data[-INDEX_BYTES:-4], "<u8").reshape(-1, 2).copy()
    entries[3], entries[2, 1] = (int(entries[2].sum()) - 9, 9), entries[2, 1] - 9
    index = entries.tobytes()
    return data[:-INDEX_BYTES] + index + checksum(index).to_bytes(4, "little")


def change_trailer_length(data: bytes) -> bytes:
    place = len(data) - INDEX_BYTES - 12
    return data[:place] + bytes([data[place] ^ 3]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (append_garbage, Kind.OBJECT_SIZE),
        (insert_bytes, Kind.INDEX_DAMAGED),
        (blank_index, Kind.INDEX_DAMAGED),
        (index_that_calls_a_failed_row_ok, Kind.INDEX_DAMAGED),
        (change_trailer_length, Kind.TRAILER_DAMAGED),
    ],
)
def test_damage_of_the_end_costs_no_row(
    root: Path, whole: Path, change: Callable[[bytes], bytes], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_recomputer.uninstall(monkeypatch)
    path = pixels_path(root)
    overwrite(path, change(path.read_bytes()))
    assert kind in kinds(root)
    assert repair(root, verify(root)).left == []
    assert contents(root) == contents(whole)


def test_rows_are_copied_where_only_the_trailer_is_lost(
    root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_recomputer.uninstall(monkeypatch)
    path = pixels_path(root)
    data = path.read_bytes()
    end = chunk_bounds(data)[-1]
    overwrite(path, data[:end] + bytes(600) + data[end + 600 :])
    assert kinds(root) == {Kind.TRAILER_DAMAGED}
    assert repair(root, verify(root)).left == []
    assert verify(root).ok
    assert same_rows(root, whole)


def test_only_the_bad_row_is_recomputed(root: Path, whole: Path, tmp_path: Path) -> None:
    path = pixels_path(root)
    flip(path, chunk_bounds(path.read_bytes())[1] + 700)
    (problem,) = verify(root).problems
    assert (problem.kind, problem.rows) == (Kind.ROW_CHECKSUM, (1,))
    with pytest.raises(errors.Damaged, match=r"shard 0 of 'flowers/pixels': checksum of row 1 differs.*--repair"):
        store.open(root)["flowers"].read([0, 1], ["pixels"])
    log = tmp_path / "asked"
    repair(root, verify(root), catalogue=log)
    assert log.read_text() == "flowers/pixels 1\n"
    assert contents(root) == contents(whole)


def test_another_row_with_right_checksums_is_found(root: Path) -> None:
    path = pixels_path(root)
    data = path.read_bytes()
    start, end = chunk_bounds(data)[:2]
    other = jpeg.encoded(np.full((28, 28, 3), 77, np.uint8)).data
    padded = other[:2] + b"\xff\xfe" + (end - start - 4 - len(other) - 2).to_bytes(2, "big")  # a comment of this length
    chunk = padded + bytes(end - start - 4 - len(padded) - len(other) + 2) + other[2:]
    overwrite(path, data[:start] + chunk + checksum(chunk).to_bytes(4, "little") + data[end:])
    assert kinds(root) == {Kind.ROW_DIFFERS}
    with pytest.raises(errors.Damaged, match="checksum of row 0 differs"):
        store.open(root)["flowers"].read([0], ["pixels"])


def test_a_decoder_that_gives_other_pixels_is_refused_with_both_values(
    root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = store.open(root)["flowers"].read_trailer("pixels", 0).pixels_crc32c
    name, decode_as_all = jpeg._decoder()

    def other(data: Any, out: np.ndarray) -> None:
        decode_as_all(data, out)
        out[0, 0, 0] ^= 1

    monkeypatch.setattr(jpeg, "_decoder", lambda: (name, other))
    assert expected is not None
    with pytest.raises(errors.OtherDecoder, match=f"than the teachers saw: crc32c expected {expected[2]:08x}, found "):
        store.open(root)["flowers"].read([2], ["pixels"])
    with pytest.raises(errors.OtherDecoder):
        store.open(root)["flowers"].read_shard("pixels", 0)
    report = verify(root)
    assert {problem.kind for problem in report.problems} == {Kind.OTHER_DECODER}
    assert f"crc32c of row 0 expected {expected[0]:08x}, found " in report.problems[0].message
    repair(root, report)
    assert contents(root) == contents(whole)
    assert verify(root, quick=True).ok


def test_tokens_of_raw_pixels_are_never_paired_with_jpeg_pixels(root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    caches.make_cache(raw)
    for there, here, kind in ((raw, root, Kind.OTHER_PIXELS), (root, raw, Kind.OTHER_PIXELS)):
        saved = shard_path(here, "mast", 1).read_bytes()
        shutil.copy(shard_path(there, "mast", 1), shard_path(here, "mast", 1))
        assert {problem.kind for problem in verify(here).problems} >= {kind}
        with pytest.raises(errors.Damaged, match="shard 1 of 'flowers/mast' was computed from other pixels"):
            store.seal(here)
        overwrite(shard_path(here, "mast", 1), saved)
    shutil.copy(pixels_path(raw, 1), pixels_path(root, 1))
    assert kinds(root, 1) & {Kind.OTHER_IDENTITY, Kind.MISPLACED}
    with pytest.raises(errors.Damaged):
        store.open(root)["flowers"].read([4], ["pixels"])


def test_the_form_in_zarr_json_must_be_that_of_the_recipe(root: Path) -> None:
    key = root / "features.zarr/flowers/pixels/zarr.json"
    key.write_bytes(pixels_schema.pixels_document(rows=10, image_size=28, shard_rows=4))
    with pytest.raises(errors.UnsupportedFormat, match="rows stored as JPEG expected by the recipe, found raw"):
        store.open(root)["flowers"].array("pixels")
    assert repair(root, verify(root)).documents == ["features.zarr/flowers/pixels/zarr.json"]
    assert verify(root).ok


def test_a_trailer_without_checksums_of_decoded_pixels_is_inconsistent(root: Path, whole: Path) -> None:
    path = pixels_path(root)
    overwrite(path, rewritten(path.read_bytes(), lambda trailer: replace(trailer, pixels_crc32c=None)))
    assert kinds(root) == {Kind.TRAILER_INCONSISTENT}
    with pytest.raises(errors.Damaged, match="lacks the checksums of the decoded pixels"):
        store.open(root)["flowers"].read([0], ["pixels"])
    assert repair(root, verify(root)).left == []
    assert same_rows(root, whole)


def test_a_reader_goes_on_when_a_shard_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another encoder may give other bytes of the same pixels: rows then lie elsewhere than the reader remembers."""
    dataset = store.open(root)["flowers"]
    before = dataset.read([0, 1, 2], ["pixels"])["pixels"]
    encode = jpeg.encoded

    def with_comment(pixels: np.ndarray) -> jpeg.EncodedPixels:
        row = encode(pixels)
        return replace(row, data=row.data[:2] + b"\xff\xfe\x00\x06more" + row.data[2:])

    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "encoded", with_comment)
        dataset.storage.move("features.zarr/flowers/pixels/c.0.0.0.0", "quarantine/flowers.pixels.0.00000000")
        caches.write_pixels(store.open(root), FLOWERS, 0)
    np.testing.assert_array_equal(dataset.read([0, 1, 2], ["pixels"])["pixels"], before)


def test_only_encoded_or_raw_pixels_are_taken_and_the_first_writer_wins(tmp_path: Path) -> None:
    cache = caches.create_datasets(tmp_path / "cache", jpeg=True)
    dataset, rows = cache["rooms"], range(4)
    table = caches.manifest_of([caches.record_of(ROOMS, row) for row in rows])
    pixels = [caches.pixels_of("rooms", row, 1) for row in rows]
    with (
        dataset.write_shard("pixels", 0, provenance={"writer": 1}) as first,
        dataset.write_shard("pixels", 0, provenance={"writer": 2}) as second,
    ):
        with pytest.raises(errors.InvalidInput, match=r"expected uint8 \(28, 28, 3\)"):
            first.append(pixels[0][:27])
        for row in pixels:
            first.append(row)
            second.append(jpeg.encoded(row))
        assert (second.finish(table), first.finish(table)) == (True, False)
    assert dataset.read_trailer("pixels", 0).provenance == {"writer": 2}
    assert not [path for path in (tmp_path / "cache").rglob("*.tmp*")]
    with cache["flowers"].write_shard("pixels", 0, provenance={}) as unfinished:
        unfinished.append(caches.pixels_of("flowers", 0, 2))
    assert cache["flowers"].present("pixels") == frozenset()
    raw = caches.create_datasets(tmp_path / "raw")["rooms"]
    with (
        raw.write_shard("pixels", 0, provenance={}) as writer,
        pytest.raises(errors.InvalidInput, match=r"expected uint8 \(28, 28, 3\), found a JPEG file"),
    ):
        writer.append(jpeg.encoded(pixels[0]))


def test_a_reader_keeps_the_indexes_of_few_shards_and_reads_all(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = store.open(whole)["flowers"]
    read, asked = jpeg_index.read_index, []

    def counted(metadata: DatasetMetadata, shard: int) -> JpegIndex:
        asked.append(shard)
        return read(metadata, shard)

    monkeypatch.setattr(jpeg_index, "read_index", counted)
    one = read(dataset, 0).kept_bytes
    indexes = JpegIndexes(dataset, limit_bytes=2 * one)
    for shard in (0, 1, 0, 2, 0, 1, 1):  # 2 takes the place of 1, which was used longest ago
        assert indexes.get(shard).rows == dataset.shard_rows_of(shard)
    assert asked == [0, 1, 2, 1]


def test_memory_is_not_asked_for_on_the_word_of_a_document(root: Path) -> None:
    def enlarge(document: dict[str, Any]) -> None:
        own = document["attributes"]["codistill"]
        if "recipe" in own:
            own["recipe"]["image_size"] = 2**14

    rewrite_document(root / "features.zarr/zarr.json", enlarge)
    large = pixels_schema.pixels_document(rows=10, image_size=2**14, shard_rows=4, jpeg=True)
    (root / "features.zarr/flowers/pixels/zarr.json").write_bytes(large)
    with pytest.raises(errors.Damaged, match="belongs elsewhere: identity digest"):
        store.open(root)["flowers"].read(list(range(3)) * 100_000, ["pixels"])
