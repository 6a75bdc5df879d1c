"""Sealed tables: status, statistics and manifest of a dataset, and the record of the shards they were made from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store import errors
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import json_bytes, manifest_key, record_key, small_array_document, statistics_path, status_path
from store.format.statistics import Statistics, from_stacked
from store.format.trailer import decode_safetensors, encode_safetensors
from store.storage.base import Storage

DIGEST_BYTES = 32


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
        storage: where the cache is.
        path: path of the array below the cache.
        values: values of the whole array.
        names: names of its dimensions.

    Returns:
        The crc32c as stored, hexadecimal, by which a `Record` recognises the table.
    """
    storage.put_if_absent(f"{path}/zarr.json", small_array_document(values.shape, values.dtype, names))
    data = small_array_bytes(values)
    storage.replace(small_array_key(path, values.ndim), data)
    return data[-CHECKSUM_BYTES:].hex()


def _read_small_array(storage: Storage, path: str, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        data = storage.read(small_array_key(path, len(shape)))
    except FileNotFoundError:
        message = f"'{path}' is not sealed. Run: codistill store seal {storage.location}"
        raise errors.NotSealed(message) from None
    body, crc = data[:-CHECKSUM_BYTES], int.from_bytes(data[-CHECKSUM_BYTES:], "little")
    if len(body) != int(np.prod(shape)) * dtype.itemsize or checksum(body) != crc:
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
    prefix, patch = from_stacked(values)
    return Statistics(prefix=prefix, patch=patch)


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
    try:
        source = storage.arrow_file(key)
    except FileNotFoundError:
        message = f"'{key}' is not sealed. Run: codistill store seal {storage.location}"
        raise errors.NotSealed(message) from None
    with source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            names = file.schema_arrow.names
            unknown = sorted(set(columns or ()) - set(names))
            if unknown:
                raise errors.InvalidInput(f"manifest of '{dataset}' has no column {unknown}; available: {names}")
            selected = None if columns is None else list(columns)
            return pq.read_table(source, columns=selected, filters=filter, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            if "checksum" not in str(error) and "Parquet" not in str(error) and "Thrift" not in str(error):
                raise
            message = f"'{key}' is damaged ({error}). It is derived: delete it and run: codistill store seal"
            raise errors.Damaged(f"{message} {storage.location}") from error


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of the shards that the sealed tables of an array were made from; the next seal then reads only new ones.

    Attributes:
        fingerprints: uint32 [shards], crc32c of each sealed shard's trailer, 0 where there is none.
        pixels_digests: uint8 [shards, 32], digest of each pixel shard (for tokens, of the one they were computed from).
        counts: number of ok and of failed rows.
        reasons: number of failed rows by kind of reason (the part before the first colon).
        tables: marks of the sealed tables, so that a mixture of two seals is noticed.
    """

    fingerprints: npt.NDArray[np.uint32]
    pixels_digests: npt.NDArray[np.uint8]
    counts: dict[str, int]
    reasons: dict[str, int]
    tables: dict[str, str]

    def encode(self) -> bytes:
        """Return the record as a safetensors blob."""
        fields = {"counts": self.counts, "reasons": self.reasons, "tables": self.tables}
        metadata = {"codistill": json_bytes(fields).decode()}
        return encode_safetensors({"fingerprints": self.fingerprints, "pixels_digests": self.pixels_digests}, metadata)


def read_record(storage: Storage, *, dataset: str, array: str) -> Record | None:
    """Return the record of the last seal of an array; None if there is none that can be used."""
    try:
        tensors, metadata = decode_safetensors(storage.read(record_key(dataset, array)))
        fields = json.loads(metadata["codistill"])
        return Record(
            fingerprints=tensors["fingerprints"].astype(np.uint32),
            pixels_digests=tensors["pixels_digests"].astype(np.uint8),
            counts=fields["counts"],
            reasons=fields["reasons"],
            tables=fields["tables"],
        )
    except (FileNotFoundError, KeyError, ValueError, TypeError):
        return None  # the record is only an optimisation
