"""Ways in which a cache gets damaged, on the files themselves. The cache is that of `tests.store.caches.make_cache`."""

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import store
from store.cache import sealed_tables
from store.format.layout import checksum
from store.format.schema import OK
from store.format.statistics import Moments
from store.format.trailer import Trailer, decode
from store.storage.local import LocalStorage
from store.verify.problems import Kind
from tests.store import caches
from tests.store.builders import rewrite_document
from tests.store.caches import DATASETS, TEACHERS

FEATURES = "features.zarr"
FLOWERS, ROOMS = DATASETS
DINO, MAST = TEACHERS


def shard_path(root: Path, array: str, shard: int, dataset: str = "flowers") -> Path:
    """Return the file of a shard."""
    if array == "pixels":
        return root / FEATURES / dataset / "pixels" / f"c.{shard}.0.0.0"
    return root / FEATURES / dataset / array / "tokens" / f"c.{shard}.0.0"


def slots_bytes(array: str, rows: int = caches.SHARD_ROWS) -> int:
    return stride_of(array) * rows


def stride_of(array: str) -> int:
    if array == "pixels":
        return caches.IMAGE_SIZE_PX**2 * 3 + 4
    (teacher,) = [teacher for teacher in TEACHERS if teacher.name == array]
    return (teacher.prefix_tokens + 4) * teacher.channels * 2 + 4


def flip(path: Path, offset: int, mask: int = 0x40) -> None:
    """Flip bits of one byte, in place; negative offsets count from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    overwrite(path, bytes(data))


def overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate(len(data))
        file.write(data)


INDEX_BYTES = caches.SHARD_ROWS * 16 + 4


def rewrite_trailer(root: Path, array: str, shard: int, change: Callable[[Trailer], Trailer]) -> None:
    """Replace the trailer by a changed one whose checksum is right."""
    path = shard_path(root, array, shard)
    data = path.read_bytes()
    slots = slots_bytes(array, len(store.open(root)["flowers"].shard_rows_of(shard)))
    trailer = decode(data[slots:], where="test", index_bytes=INDEX_BYTES)
    overwrite(path, data[:slots] + change(trailer).encode() + data[-INDEX_BYTES:])


def cut_one_byte(root: Path) -> None:
    path = shard_path(root, "dino", 0)
    overwrite(path, path.read_bytes()[:-1])


def cut_half(root: Path) -> None:
    path = shard_path(root, "dino", 1)
    overwrite(path, path.read_bytes()[: slots_bytes("dino") // 2 + 5])


def cut_pixels_half(root: Path) -> None:
    path = shard_path(root, "pixels", 1)
    overwrite(path, path.read_bytes()[: slots_bytes("pixels") // 2 + 5])


def empty_file(root: Path) -> None:
    overwrite(shard_path(root, "mast", 2), b"")


def append_garbage(root: Path) -> None:
    path = shard_path(root, "pixels", 1)
    overwrite(path, path.read_bytes() + b"garbage")


def flip_trailer(root: Path) -> None:
    flip(shard_path(root, "pixels", 0), slots_bytes("pixels") + 300)


def blank_trailer(root: Path) -> None:
    path = shard_path(root, "dino", 0)
    data = bytearray(path.read_bytes())
    start = slots_bytes("dino") + 700
    data[start : start + 64] = bytes(64)
    overwrite(path, bytes(data))


def blank_pixels_trailer(root: Path) -> None:
    path = shard_path(root, "pixels", 0)
    data = bytearray(path.read_bytes())
    start = slots_bytes("pixels")
    data[start : start + 2000] = bytes(2000)
    overwrite(path, bytes(data))


def flip_index(root: Path) -> None:
    flip(shard_path(root, "mast", 1), -20)


def exchange_index(root: Path) -> None:
    """An index with a right checksum that calls a failed row ok."""
    path = shard_path(root, "mast", 0)
    data = path.read_bytes()
    entries = np.frombuffer(data[-INDEX_BYTES:-4], "<u8").reshape(-1, 2).copy()
    entries[3] = (3 * stride_of("mast"), stride_of("mast"))
    index = entries.tobytes()
    overwrite(path, data[:-INDEX_BYTES] + index + checksum(index).to_bytes(4, "little"))


def flip_token_row(root: Path) -> None:
    flip(shard_path(root, "dino", 1), stride_of("dino") + 7)


def flip_pixels_row(root: Path) -> None:
    flip(shard_path(root, "pixels", 1), stride_of("pixels") * 2 + 7)


def flip_row_checksum(root: Path) -> None:
    flip(shard_path(root, "dino", 1), stride_of("dino") * 2 - 2)


def exchange_row(root: Path) -> None:
    """Another row with a right checksum."""
    path = shard_path(root, "dino", 1)
    data = bytearray(path.read_bytes())
    row = np.full((5, 6), 3.5, np.float16).tobytes()
    start = stride_of("dino")
    data[start : start + len(row) + 4] = row + checksum(row).to_bytes(4, "little")
    overwrite(path, bytes(data))


def swap_rows(root: Path) -> None:
    path = shard_path(root, "pixels", 1)
    data, stride = path.read_bytes(), stride_of("pixels")
    overwrite(path, data[stride : 2 * stride] + data[:stride] + data[2 * stride :])


def fill_hole(root: Path) -> None:
    flip(shard_path(root, "dino", 0), stride_of("dino") * 3 + 1)


def change_moments(root: Path) -> None:
    def change(trailer: Trailer) -> Trailer:
        assert trailer.moments is not None
        prefix, patch = trailer.moments
        wrong = Moments(count=patch.count, mean=patch.mean * 1.000001, m2=patch.m2, min=patch.min, max=patch.max)
        return replace(trailer, moments=(prefix, wrong))

    rewrite_trailer(root, "dino", 1, change)


def store_infinity(root: Path) -> None:
    """Infinity with right checksums everywhere."""
    path = shard_path(root, "mast", 1)
    data = bytearray(path.read_bytes())
    size = stride_of("mast") - 4
    row = np.frombuffer(bytes(data[:size]), np.float16).copy()
    row[0] = np.inf
    crc = checksum(row.tobytes())
    data[: size + 4] = row.tobytes() + crc.to_bytes(4, "little")
    overwrite(path, bytes(data))
    rewrite_trailer(
        root, "mast", 1, lambda trailer: replace(trailer, crc32c=np.array([crc, *trailer.crc32c[1:]], np.uint32))
    )


def change_manifest_path(root: Path) -> None:
    def change(trailer: Trailer) -> Trailer:
        table = trailer.manifest()
        assert table is not None
        column = table.column_names.index("path")
        table = table.set_column(column, table.schema.field("path"), [["elsewhere.png"] * table.num_rows])
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return replace(trailer, manifest_bytes=sink.getvalue().to_pybytes())

    rewrite_trailer(root, "pixels", 1, change)


def lose_reason(root: Path) -> None:
    rewrite_trailer(root, "dino", 2, lambda trailer: replace(trailer, errors={}))


def swap_shards(root: Path) -> None:
    first, second, spare = shard_path(root, "dino", 0), shard_path(root, "dino", 1), root / "spare"
    os.rename(first, spare)
    os.rename(second, first)
    os.rename(spare, second)


def swap_pixel_shards(root: Path) -> None:
    first, second, spare = shard_path(root, "pixels", 0), shard_path(root, "pixels", 1), root / "spare"
    os.rename(first, spare)
    os.rename(second, first)
    os.rename(spare, second)


def copy_from_other_dataset(root: Path) -> None:
    shutil.copy(shard_path(root, "pixels", 0, "rooms"), shard_path(root, "pixels", 0))


def copy_from_other_teacher(root: Path) -> None:
    shutil.copy(shard_path(root, "mast", 1), shard_path(root, "dino", 1))


def rename_shard(root: Path) -> None:
    os.rename(shard_path(root, "mast", 0), shard_path(root, "mast", 1))


def copy_from_other_extraction(root: Path) -> None:
    """A shard of the same dataset and teacher, of which the teacher had other weights."""
    other = root.parent / "other"
    caches.make_cache(other, teachers=(replace(DINO, weights="other"), MAST), seal=False)
    shutil.copy(shard_path(other, "dino", 1), shard_path(root, "dino", 1))


def copy_pixels_of_other_recipe(root: Path) -> None:
    other = root.parent / "other"
    cache = store.create(other, {"image_size": caches.IMAGE_SIZE_PX, "shard_rows": caches.SHARD_ROWS, "seed": 9})
    cache.create_dataset(
        "flowers", images=caches.image_list(FLOWERS), group="generic", split="train", mode="train", views=2
    )
    caches.write_pixels(cache, FLOWERS, 1)
    shutil.copy(shard_path(other, "pixels", 1), shard_path(root, "pixels", 1))


def edit_identity(root: Path) -> None:
    rewrite_document(root / FEATURES / "flowers/dino/tokens/zarr.json", _other_weights)


def _other_weights(document: dict[str, Any]) -> None:
    document["attributes"]["codistill"]["identity"]["weights"] = "v"


def tokens_of_other_pixels(root: Path) -> None:
    rewrite_trailer(root, "mast", 1, lambda trailer: replace(trailer, pixels_digest="0" * 64))


def delete_pixels(root: Path) -> None:
    shard_path(root, "pixels", 1).unlink()


def delete_tokens(root: Path) -> None:
    shard_path(root, "dino", 2).unlink()


def flip_sealed_status(root: Path) -> None:
    flip(root / FEATURES / "flowers/dino/status/c.0", 2)


def flip_sealed_document(root: Path) -> None:
    path = root / FEATURES / "flowers/dino/status/zarr.json"
    path.write_text(path.read_text().replace('"row"', '"raw"'))


def change_sealed_status(root: Path) -> None:
    path = root / FEATURES / "flowers/pixels_status/c.0"
    status = np.frombuffer(path.read_bytes()[:-4], np.uint8).copy()
    status[3] = OK
    overwrite(path, sealed_tables.small_array_bytes(status))


def change_sealed_statistics(root: Path) -> None:
    path = root / FEATURES / "flowers/mast/statistics/c.0.0.0"
    values = np.frombuffer(path.read_bytes()[:-4], "<f8").reshape(2, 5, 4).copy()
    values[1, 1] *= 1 + 1e-6
    overwrite(path, sealed_tables.small_array_bytes(values))


def change_sealed_manifest(root: Path) -> None:
    (root / "seal/flowers.pixels.safetensors").unlink()  # it knows the manifest's sum
    path = root / "manifest/flowers.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("crop_top")
    ones = pa.array([1] * table.num_rows, pa.int32())
    pq.write_table(table.set_column(column, table.schema.field("crop_top"), ones), path)


def cut_sealed_manifest(root: Path) -> None:
    path = root / "manifest/flowers.parquet"
    overwrite(path, path.read_bytes()[:-10])


def replace_after_seal(root: Path) -> None:
    """A good shard made again, by other software, after sealing."""
    rewrite_trailer(root, "dino", 0, lambda trailer: replace(trailer, provenance={"device": "another"}))


def foreign_file(root: Path) -> None:
    (root / FEATURES / "flowers/dino/tokens/notes.txt").write_text("mine")


def foreign_folder(root: Path) -> None:
    (root / FEATURES / "flowers/dino/tokens/backup").mkdir()


def leftover(root: Path) -> None:
    name = temporary_name(root, pid=dead_pid())
    (root / FEATURES / f"flowers/dino/tokens/{name}").write_bytes(b"half")


def temporary_name(root: Path, *, pid: int) -> str:
    from store.storage.publish import Writer

    return f"c.0.0.0.tmp~{replace(Writer.here(), pid=pid)}~0a1b2c3d"


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def quarantine_object(root: Path) -> None:
    """Leave what a repair leaves that is killed between quarantining the damaged object and publishing."""
    flip_token_row(root)
    LocalStorage(root).move("features.zarr/flowers/dino/tokens/c.1.0.0", "quarantine/flowers.dino.1.0a1b2c3d")


def flip_image_list(root: Path) -> None:
    flip(root / "images/flowers.parquet", 40)


def delete_image_list(root: Path) -> None:
    (root / "images/rooms.parquet").unlink()


def break_array_document(root: Path) -> None:
    (root / FEATURES / "flowers/dino/tokens/zarr.json").write_text("{")


def delete_array_document(root: Path) -> None:
    (root / FEATURES / "flowers/dino/tokens/zarr.json").unlink()


def delete_dataset_document(root: Path) -> None:
    (root / FEATURES / "rooms/zarr.json").unlink()


def change_array_shape(root: Path) -> None:
    path = root / FEATURES / "flowers/dino/tokens/zarr.json"
    rewrite_document(path, lambda document: document["attributes"]["codistill"].update(patch_grid=[1, 3]))


def misspell_attributes(root: Path) -> None:
    path = root / FEATURES / "flowers/dino/tokens/zarr.json"
    path.write_text(path.read_text().replace('"attributes"', '"attributec"'))


def change_group(root: Path) -> None:
    path = root / FEATURES / "flowers/zarr.json"
    path.write_text(path.read_text().replace('"generic"', '"generib"'))


def change_uuid(root: Path) -> None:
    """Another digit, and a checksum that fits it: the seal knows the sum of the document."""

    def change(document: dict[str, Any]) -> None:
        uuid = document["attributes"]["codistill"]["uuid"]
        document["attributes"]["codistill"]["uuid"] = ("1" if uuid[0] == "0" else "0") + uuid[1:]

    rewrite_document(root / FEATURES / "zarr.json", change)


def flip_pixels_document(root: Path) -> None:
    flip(root / FEATURES / "rooms/pixels/zarr.json", 100)


def delete_pixels_document(root: Path) -> None:
    (root / FEATURES / "rooms/pixels/zarr.json").unlink()


def delete_teacher_document(root: Path) -> None:
    (root / FEATURES / "rooms/mast/zarr.json").unlink()


def flip_record(root: Path) -> None:
    flip(root / "seal/flowers.dino.safetensors", -1)


def flip_end_of_sealed_manifest(root: Path) -> None:
    flip(root / "manifest/flowers.parquet", -1300)


def break_root_document(root: Path) -> None:
    (root / FEATURES / "zarr.json").write_text('{"zarr_format": 3}')


def change_trailer_length(root: Path) -> None:
    path = shard_path(root, "dino", 0)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, len(data) - INDEX_BYTES - 12, 17)
    overwrite(path, bytes(data))


# What a damage must be called, and whether a repair makes the shards what they were, bit for bit.
REPAIRED: list[tuple[Callable[[Path], None], Kind]] = [
    (cut_one_byte, Kind.OBJECT_SIZE),
    (append_garbage, Kind.OBJECT_SIZE),
    (flip_trailer, Kind.TRAILER_DAMAGED),
    (change_trailer_length, Kind.TRAILER_DAMAGED),
    (flip_index, Kind.INDEX_DAMAGED),
    (exchange_index, Kind.INDEX_DAMAGED),
    (flip_token_row, Kind.ROW_CHECKSUM),
    (flip_pixels_row, Kind.ROW_CHECKSUM),
    (flip_row_checksum, Kind.ROW_CHECKSUM),
    (exchange_row, Kind.ROW_DIFFERS),
    (swap_rows, Kind.ROW_DIFFERS),
    (fill_hole, Kind.HOLE_NOT_ZERO),
    (change_moments, Kind.MOMENTS_DIFFER),
    (swap_shards, Kind.MISPLACED),
    (swap_pixel_shards, Kind.MISPLACED),
    (quarantine_object, Kind.QUARANTINED),
    (flip_sealed_status, Kind.SEALED_DAMAGED),
    (flip_sealed_document, Kind.SEALED_DAMAGED),
    (cut_sealed_manifest, Kind.SEALED_DAMAGED),
    (change_sealed_status, Kind.SEALED_STATUS_DIFFERS),
    (change_sealed_statistics, Kind.SEALED_STATISTICS_DIFFER),
    (change_sealed_manifest, Kind.SEALED_MANIFEST_DIFFERS),
    (leftover, Kind.LEFTOVER),
    (edit_identity, Kind.METADATA_DIFFERS),
    (break_array_document, Kind.METADATA_DAMAGED),
    (delete_array_document, Kind.METADATA_DAMAGED),
    (change_array_shape, Kind.METADATA_DAMAGED),
    (misspell_attributes, Kind.METADATA_DAMAGED),
    (change_group, Kind.METADATA_DAMAGED),
    (flip_pixels_document, Kind.METADATA_DAMAGED),
    (delete_pixels_document, Kind.METADATA_DAMAGED),
    (delete_teacher_document, Kind.METADATA_DAMAGED),
    (flip_record, Kind.SEALED_DAMAGED),
    (flip_end_of_sealed_manifest, Kind.SEALED_DAMAGED),
]
# Here the trailer is lost as well: the rows are what they were, the provenance says that they were made again.
RECOMPUTED: list[tuple[Callable[[Path], None], Kind]] = [
    (cut_half, Kind.OBJECT_SIZE),
    (cut_pixels_half, Kind.OBJECT_SIZE),
    (empty_file, Kind.OBJECT_SIZE),
    (blank_trailer, Kind.TRAILER_DAMAGED),
    (blank_pixels_trailer, Kind.TRAILER_DAMAGED),
    (store_infinity, Kind.ROW_NOT_FINITE),
    (change_manifest_path, Kind.TRAILER_INCONSISTENT),
    (lose_reason, Kind.TRAILER_INCONSISTENT),
    (rename_shard, Kind.MISPLACED),
    (copy_from_other_dataset, Kind.MISPLACED),
    (copy_from_other_teacher, Kind.MISPLACED),
    (copy_from_other_extraction, Kind.OTHER_IDENTITY),
    (copy_pixels_of_other_recipe, Kind.OTHER_IDENTITY),
    (tokens_of_other_pixels, Kind.OTHER_PIXELS),
    (delete_pixels, Kind.PIXELS_MISSING),
    (delete_tokens, Kind.SHARD_GONE),
    (replace_after_seal, Kind.SEAL_OUTDATED),
]
# These are for people to decide.
REPORTED: list[tuple[Callable[[Path], None], Kind]] = [
    (foreign_file, Kind.FOREIGN_OBJECT),
    (foreign_folder, Kind.FOREIGN_OBJECT),
    (flip_image_list, Kind.IMAGE_LIST_DAMAGED),
    (delete_image_list, Kind.IMAGE_LIST_DAMAGED),
    (delete_dataset_document, Kind.METADATA_DAMAGED),
    (break_root_document, Kind.METADATA_DAMAGED),
    (change_uuid, Kind.METADATA_DAMAGED),
]
