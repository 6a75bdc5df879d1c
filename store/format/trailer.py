"""Shard trailer: metadata, row checksums, status, moments, as a safetensors blob behind the slots.

The length of the blob (u64) and its crc32c (u32) follow it.

Encoded here rather than by the safetensors library, whose metadata order is that of a hash map: equal input must give
equal bytes.
"""

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store import errors
from store.format.layout import checksum
from store.format.schema import OK, json_bytes, plain_json
from store.format.statistics import Moments, from_stacked, stacked

ENDING = struct.Struct("<QI")
TYPES = {"F64": "<f8", "U32": "<u4", "U8": "|u1"}
DIGEST_ENTRY = np.dtype([("row", "<i8"), ("crc32c", "<u4")])


@dataclass(frozen=True, kw_only=True)
class Trailer:
    """The trailer of one shard.

    Attributes:
        dataset: name of the dataset.
        array: `pixels` or a teacher's name.
        shard: number of the shard.
        rows: row numbers in the array.
        crc32c: uint32 [rows], 0 where the row failed.
        status: uint8 [rows], 1 ok or 2 failed.
        errors: reasons by failed row.
        identity_digest: sha256 of what the array's values depend on.
        pixels_digest: digest of the pixel shard that tokens were computed from; None for pixels.
        provenance: versions, device and the like; shown, never enforced.
        moments: moments of prefix tokens (None without any) and patch tokens; None for pixels.
        manifest_bytes: manifest rows as Parquet; None for tokens.
    """

    dataset: str
    array: str
    shard: int
    rows: range
    crc32c: npt.NDArray[np.uint32]
    status: npt.NDArray[np.uint8]
    errors: dict[int, str]
    identity_digest: str
    pixels_digest: str | None
    provenance: dict[str, Any]
    moments: tuple[Moments | None, Moments] | None
    manifest_bytes: bytes | None

    @property
    def digest(self) -> str:
        """The sha256 of the (row int64, crc32c uint32) list of the ok rows, little-endian."""
        return digest_of(self.rows, self.status, self.crc32c)

    def manifest(self) -> pa.Table | None:
        """Return the manifest rows of this shard; None for tokens."""
        return None if self.manifest_bytes is None else pq.read_table(io.BytesIO(self.manifest_bytes))

    def encode(self) -> bytes:
        """Return the blob with its length and crc32c."""
        metadata = {
            "array": self.array,
            "dataset": self.dataset,
            "errors": json_bytes({str(row): reason for row, reason in self.errors.items()}).decode(),
            "identity_digest": self.identity_digest,
            "provenance": json_bytes(plain_json(self.provenance)).decode(),
            "rows": f"{self.rows.start}:{self.rows.stop}",
            "shard": str(self.shard),
        }
        if self.pixels_digest is not None:
            metadata["pixels_digest"] = self.pixels_digest
        tensors: dict[str, npt.NDArray[Any]] = {}
        if self.moments is not None:
            tensors["moments"] = stacked(*self.moments)
        tensors |= {"crc32c": self.crc32c, "status": self.status}
        if self.manifest_bytes is not None:
            tensors["manifest"] = np.frombuffer(self.manifest_bytes, np.uint8)
        blob = encode_safetensors(tensors, metadata)
        return blob + ENDING.pack(len(blob), checksum(blob))


def digest_of(rows: range, status: npt.NDArray[np.uint8], crc32c: npt.NDArray[np.uint32]) -> str:
    """Return the sha256 of the (row int64, crc32c uint32) list of the ok rows, little-endian."""
    ok = status == OK
    entries = np.empty(int(ok.sum()), dtype=DIGEST_ENTRY)
    entries["row"] = np.arange(rows.start, rows.stop)[ok]
    entries["crc32c"] = crc32c[ok]
    return hashlib.sha256(entries.tobytes()).hexdigest()


def decode(tail: bytes, *, where: str, index_bytes: int) -> Trailer:
    """Parse the part of a shard object behind its slots: trailer and sharding index.

    Args:
        tail: all bytes behind the last slot.
        where: name of the shard, for errors.
        index_bytes: bytes of the sharding index at the end.

    Raises:
        errors.Damaged: the sizes do not fit, the checksum differs, or the blob is not what format 1 writes.
    """
    end = len(tail) - index_bytes
    if end < ENDING.size:
        raise errors.Damaged(f"{where} is cut short: {max(end, 0)} bytes where the trailer should be")
    length, crc = ENDING.unpack_from(tail, end - ENDING.size)
    if length != end - ENDING.size:
        raise errors.Damaged(f"{where}: trailer of {length} bytes expected, {end - ENDING.size} found")
    blob = tail[:length]
    if checksum(blob) != crc:
        raise errors.Damaged(f"{where}: checksum of the trailer differs")
    try:
        return _parse(blob)
    except (KeyError, ValueError, TypeError, struct.error) as error:
        raise errors.Damaged(f"{where}: the trailer is not what format 1 writes: {error}") from error


def mismatches(
    trailer: Trailer, *, dataset: str, array: str, shard: int, rows: range, identity_digest: str
) -> list[str]:
    """Return the differences between a trailer and the place of its shard, each as `name: expected X, found Y`."""
    expected = {
        "dataset": dataset,
        "array": array,
        "shard": shard,
        "rows": rows,
        "identity digest": identity_digest,
    }
    stored = {
        "dataset": trailer.dataset,
        "array": trailer.array,
        "shard": trailer.shard,
        "rows": trailer.rows,
        "identity digest": trailer.identity_digest,
    }
    return [
        f"{name}: expected {expected[name]}, found {stored[name]}"
        for name in expected
        if expected[name] != stored[name]
    ]


def fingerprint(tail: bytes, *, index_bytes: int) -> int:
    """Return the recorded crc32c of a trailer, which changes with anything in the shard."""
    return int(ENDING.unpack_from(tail, len(tail) - index_bytes - ENDING.size)[1])


def _parse(blob: bytes) -> Trailer:
    tensors, metadata = decode_safetensors(blob)
    start, stop = (int(part) for part in metadata["rows"].split(":"))
    status = cast(npt.NDArray[np.uint8], tensors["status"])
    crcs = cast(npt.NDArray[np.uint32], tensors["crc32c"])
    if not len(status) == len(crcs) == stop - start:
        raise ValueError(f"{len(status)} states and {len(crcs)} checksums for {stop - start} rows")
    manifest = tensors.get("manifest")
    return Trailer(
        dataset=metadata["dataset"],
        array=metadata["array"],
        shard=int(metadata["shard"]),
        rows=range(start, stop),
        crc32c=crcs,
        status=status,
        errors={int(row): reason for row, reason in json.loads(metadata["errors"]).items()},
        identity_digest=metadata["identity_digest"],
        pixels_digest=metadata.get("pixels_digest"),
        provenance=json.loads(metadata["provenance"]),
        moments=from_stacked(tensors["moments"]) if "moments" in tensors else None,
        manifest_bytes=None if manifest is None else manifest.tobytes(),
    )


def encode_safetensors(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors blob: sorted metadata, tensors in the order given (widest type first, for alignment)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    parts, offset = [], 0
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            "dtype": names[tensor.dtype.newbyteorder("<")],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    return safetensors_header(header) + b"".join(parts)


def safetensors_header(header: Mapping[str, Any]) -> bytes:
    """Return the beginning of a safetensors blob: the length of the header, then the header, padded to 8 bytes."""
    text = json_bytes(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def decode_safetensors(blob: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Return the tensors (owned copies) and metadata of a safetensors blob of the types in `TYPES`.

    Raises:
        ValueError, KeyError: it is not a safetensors blob of these types.
    """
    (length,) = struct.unpack_from("<Q", blob)
    if length > len(blob) - 8:
        raise ValueError(f"header of {length} bytes in a blob of {len(blob)}")
    header = json.loads(blob[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body = memoryview(blob)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= len(body):
            raise ValueError(f"tensor '{name}' lies outside the blob")
        values = np.frombuffer(body[start:stop], TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).copy()
    return tensors, metadata
