"""Sealed tables: status, statistics and manifest of a dataset."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache.seal_record import trusted_record
from store.format import schema, tables
from store.format.code_schema import distortion_tables
from store.format.distortion import Distortion
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.manifest import SCHEMA
from store.format.schema import PIXELS, manifest_key, small_array_document, statistics_path, status_path
from store.format.statistics import Statistics, from_stacked, moments_problem
from store.storage.base import Storage

PARQUET_ENDING = struct.Struct("<I4s")  # length of the metadata at the end of a Parquet file, and its magic


def small_array_key(path: str, dimensions: int) -> str:
    """Return the object of a sealed array's only chunk."""
    return f"{path}/{'.'.join(['c', *['0'] * dimensions])}"


def small_array_bytes(values: npt.NDArray[Any]) -> bytes:
    """Return the bytes of a sealed array's chunk: little-endian values, then their crc32c."""
    data = np.ascontiguousarray(values).tobytes()
    return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")


def write_small_array(storage: Storage, path: str, values: npt.NDArray[Any], *, names: tuple[str, ...]) -> str:
    """Write a sealed array in place of any older one.

    Args:
        storage: storage of the cache.
        path: path of the array below the cache.
        values: values of the whole array.
        names: names of its dimensions.

    Returns:
        The crc32c as stored, hexadecimal, by which the record of a seal recognises the table.
    """
    key, document = f"{path}/zarr.json", small_array_document(values.shape, values.dtype, names)
    if not storage.put_if_absent(key, document) and storage.read(key) != document:
        storage.replace(key, document)
    data = small_array_bytes(values)
    storage.replace(small_array_key(path, values.ndim), data)
    return data[-CHECKSUM_BYTES:].hex()


def _read_small_array(storage: Storage, path: str, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    try:
        data = storage.read(small_array_key(path, len(shape)), limit=size + CHECKSUM_BYTES)
    except errors.Damaged:
        data = b""
    except FileNotFoundError:
        message = f"'{path}' is not sealed. Run: codistill store seal {storage.location}"
        raise errors.NotSealed(message) from None
    body, crc = data[:-CHECKSUM_BYTES], int.from_bytes(data[-CHECKSUM_BYTES:], "little")
    if len(body) != size or checksum(body) != crc:
        message = f"'{path}' is damaged. It is derived: delete it and run: codistill store seal {storage.location}"
        raise errors.Damaged(message)
    return np.frombuffer(body, dtype).reshape(shape)


def read_status(storage: Storage, *, dataset: str, array: str, rows: int) -> npt.NDArray[np.uint8]:
    """Return the sealed status, read-only uint8 [rows].

    Raises:
        errors.NotSealed: the array is not sealed.
        errors.Damaged: its checksum differs.
    """
    return _read_small_array(storage, status_path(dataset, array), shape=(rows,), dtype=np.dtype(np.uint8))


def read_statistics(storage: Storage, *, dataset: str, teacher: str, channels: int) -> Statistics:
    """Return the sealed statistics of a teacher.

    Raises:
        errors.NotSealed: the array is not sealed.
        errors.Damaged: their checksum differs.
    """
    path = statistics_path(dataset, teacher)
    values = _read_small_array(storage, path, shape=(2, 5, channels), dtype=np.dtype("<f8"))
    problem = moments_problem(values)
    if problem:
        raise errors.Damaged(f"'{path}': {problem}. Run: codistill store verify {storage.location} --repair")
    prefix, patch = from_stacked(values)
    return Statistics(prefix=prefix, patch=patch)


def write_distortion(storage: Storage, merged: Distortion, *, dataset: str, teacher: str) -> dict[str, str]:
    """Write the sealed tables of a code's distortion; return the mark of each, as `write_small_array`."""
    values = {"distortion": merged.sums, "cosine": merged.cosine, "floor": merged.floor}
    tables = distortion_tables(dataset, teacher, channels=merged.sums.shape[-1])
    return {
        name: write_small_array(storage, table.path, values[name], names=table.dimensions)
        for name, table in tables.items()
    }


def read_distortion(storage: Storage, *, dataset: str, teacher: str, channels: int) -> Distortion:
    """Return what a teacher's code does to its tokens, as sealed.

    Raises:
        errors.NotSealed: the array is not sealed.
        errors.Damaged: a checksum differs, or the tables cannot be those of a code.
    """
    tables = {
        name: _read_small_array(storage, table.path, shape=table.shape, dtype=table.dtype)
        for name, table in distortion_tables(dataset, teacher, channels=channels).items()
    }
    merged = Distortion(sums=tables["distortion"], cosine=tables["cosine"], floor=tables["floor"])
    problem = merged.contradiction()
    if problem:
        where = f"'{schema.HIERARCHY}/{dataset}/{teacher}/distortion'"
        raise errors.Damaged(f"{where}: {problem}. Run: codistill store verify {storage.location} --repair")
    return merged


def read_manifest(
    storage: Storage, *, dataset: str, columns: Sequence[str] | None = None, filter: Any = None
) -> pa.Table:
    """Return the sealed manifest, or the columns and rows asked for, checking page checksums.

    Raises:
        errors.NotSealed: there is no manifest.
        errors.Damaged: the checksum of a page differs.
        errors.InvalidInput: a column does not exist.
    """
    key = manifest_key(dataset)
    _check_manifest_mark(storage, dataset)
    try:
        source = storage.arrow_file(key)
    except FileNotFoundError:
        message = f"'{key}' is not sealed. Run: codistill store seal {storage.location}"
        raise errors.NotSealed(message) from None
    try:
        with source:
            return tables.read(
                source, tables.Claim(schema=SCHEMA), where=f"manifest of '{dataset}'", columns=columns, filter=filter
            )
    except errors.Damaged as error:
        message = f"'{key}' cannot be used: {error}. It is derived: delete it and run: codistill store seal"
        raise errors.Damaged(f"{message} {storage.location}") from error


def manifest_mark(storage: Storage, dataset: str) -> str:
    """Return the crc32c of the end of a sealed manifest, hexadecimal; empty if there is no manifest.

    Pages have checksums of their own; the end of the file, which says where they are, has none. Damaged, it makes
    Arrow leave out rows or end the process.
    """
    key = manifest_key(dataset)
    try:
        end = storage.read_last(key, PARQUET_ENDING.size)
        length = PARQUET_ENDING.unpack(end)[0] if len(end) == PARQUET_ENDING.size else 0
        return f"{checksum(storage.read_last(key, length + PARQUET_ENDING.size)):08x}"
    except FileNotFoundError:
        return ""


def _check_manifest_mark(storage: Storage, dataset: str) -> None:
    """Compare the end of the sealed manifest with its mark, if a trusted record has one.

    Raises:
        errors.Damaged: it differs, also after the record was read again, which a seal writes last.
    """
    expected = ""
    for _ in range(2):
        record = trusted_record(storage, dataset=dataset, array=PIXELS)
        mark = "" if record is None else record.tables.get("manifest", "")
        if not mark or manifest_mark(storage, dataset) in ("", mark):
            return
        if mark == expected:
            break
        expected = mark
    message = f"'{manifest_key(dataset)}' is damaged: it does not end as it was sealed. It is derived"
    raise errors.Damaged(f"{message}: delete it and run: codistill store seal {storage.location}")
