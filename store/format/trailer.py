"""Shard trailer: metadata, row checksums, status, moments, distortion, as a safetensors blob behind the slots.

The length of the blob (u64) and its crc32c (u32) follow it.

Encoded here rather than by the safetensors library, whose metadata order is that of a hash map: equal input must give
equal bytes.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.common import strict_json
from store.common.strict_json import Fields, shown
from store.format import manifest
from store.format.distortion import BINS, Distortion
from store.format.layout import checksum
from store.format.schema import MAX_DIMENSIONS, MAX_SHARD_ROWS, OK, json_bytes, plain_json
from store.format.statistics import Moments, from_stacked, moments_problem, stacked

ENDING = struct.Struct("<QI")
MAX_TRAILER_BYTES = 2**26
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
        pixels_crc32c: uint32 [rows], crc32c of the decoded pixels, 0 where the row failed; None unless stored as JPEG.
        distortion: what a code does to the tokens of this shard; None for arrays without a code.
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
    pixels_crc32c: npt.NDArray[np.uint32] | None = None
    distortion: Distortion | None = None

    @property
    def digest(self) -> str:
        """The sha256 of the (row int64, crc32c uint32) list of the ok rows; of what they decode to if JPEG."""
        return digest_of(self.rows, self.status, self.crc32c if self.pixels_crc32c is None else self.pixels_crc32c)

    def manifest(self) -> pa.Table | None:
        """Return the manifest rows of this shard; None for tokens.

        Raises:
            errors.Damaged: they are not manifest rows of this shard.
        """
        if self.manifest_bytes is None:
            return None
        where = f"manifest rows in the trailer of shard {self.shard} of '{self.dataset}/{self.array}'"
        return manifest.parse_rows(self.manifest_bytes, rows=self.rows, where=where)

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
        if self.distortion is not None:
            tensors |= {"distortion": self.distortion.sums, "floor": self.distortion.floor}
            tensors["cosine"] = self.distortion.cosine.astype(np.uint32)
        decoded = {} if self.pixels_crc32c is None else {"pixels_crc32c": self.pixels_crc32c}
        tensors |= {"crc32c": self.crc32c, **decoded, "status": self.status}
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
    return _parse(blob, where=f"{where}: trailer")


def mismatches(
    trailer: Trailer, *, dataset: str, array: str, shard: int, rows: range, identity_digest: str
) -> list[str]:
    """Return the differences between a trailer and the location of its shard, each as `name: expected X, found Y`."""
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


def _parse(blob: bytes, *, where: str) -> Trailer:
    """Parse a trailer whose checksum holds: whoever can write a checksum can write anything."""
    tensors, metadata = decode_safetensors(blob, where=where)
    fields = Fields(metadata, where=where)
    dataset, array = fields.text("dataset"), fields.text("array")
    identity_digest = fields.text("identity_digest")
    rows = _rows(fields.text("rows"), where=where)
    status = _tensor(tensors, "status", np.dtype("u1"), (len(rows),), where=where)
    crc32c = _tensor(tensors, "crc32c", np.dtype("<u4"), (len(rows),), where=where)
    decoded = tensors.get("pixels_crc32c")
    if decoded is not None:
        decoded = _tensor(tensors, "pixels_crc32c", np.dtype("<u4"), (len(rows),), where=where)
    moments = tensors.get("moments")
    rows_table = tensors.get("manifest")
    if rows_table is not None:
        rows_table = _tensor(tensors, "manifest", np.dtype("u1"), (rows_table.size,), where=where)
    return Trailer(
        dataset=dataset,
        array=array,
        shard=_number(fields.text("shard"), where=where),
        rows=rows,
        crc32c=crc32c,
        status=status,
        errors=_reasons(metadata, where=where),
        identity_digest=identity_digest,
        pixels_digest=fields.hexadecimal("pixels_digest", digits=64) if "pixels_digest" in metadata else None,
        provenance=_json_object(metadata, "provenance", where=where),
        moments=None if moments is None else _moments(moments, where=where),
        manifest_bytes=None if rows_table is None else rows_table.tobytes(),
        pixels_crc32c=decoded,
        distortion=_distortion(tensors, where=where),
    )


def _rows(text: str, *, where: str) -> range:
    start, _, stop = text.partition(":")
    rows = range(_number(start, where=where), _number(stop, where=where))
    if not 0 < len(rows) <= MAX_SHARD_ROWS:
        raise errors.Damaged(f"{where}: rows '{text}' are not those of a shard")
    return rows


def _number(text: str, *, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise errors.Damaged(f"{where}: expected a number, found {shown(text)}")
    return int(text)


def _json_object(metadata: Mapping[str, str], name: str, *, where: str) -> dict[str, Any]:
    if name not in metadata:
        raise errors.Damaged(f"{where}: {name} is absent")
    return strict_json.parse_object(metadata[name], where=f"{where}: {name}")


def _reasons(metadata: Mapping[str, str], *, where: str) -> dict[int, str]:
    reasons = _json_object(metadata, "errors", where=where)
    if not all(isinstance(reason, str) for reason in reasons.values()):
        raise errors.Damaged(f"{where}: errors: expected a text for each row")
    return {_number(row, where=where): reason for row, reason in reasons.items()}


def _tensor(
    tensors: Mapping[str, npt.NDArray[Any]], name: str, dtype: np.dtype[Any], shape: tuple[int, ...], *, where: str
) -> npt.NDArray[Any]:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != dtype or tensor.shape != shape:
        stored = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
        raise errors.Damaged(f"{where}: {name}: expected {dtype} {list(shape)}, found {stored}")
    return tensor


def _moments(values: npt.NDArray[Any], *, where: str) -> tuple[Moments | None, Moments]:
    if values.ndim != 3 or values.shape[:2] != (2, 5) or values.dtype != np.dtype("<f8"):
        raise errors.Damaged(f"{where}: moments: expected float64 [2, 5, channel], found {list(values.shape)}")
    problem = moments_problem(values)
    if problem:
        raise errors.Damaged(f"{where}: moments: {problem}")
    return from_stacked(values)


def _distortion(tensors: Mapping[str, npt.NDArray[Any]], *, where: str) -> Distortion | None:
    """Return the distortion of a shard of codes; None where the trailer has none."""
    if "distortion" not in tensors:
        return None
    channels = tensors["distortion"].shape[-1] if tensors["distortion"].ndim else 0
    wide = np.dtype("<f8")
    return Distortion(
        sums=_tensor(tensors, "distortion", wide, (2, 3, channels), where=where),
        cosine=_tensor(tensors, "cosine", np.dtype("<u4"), (2, BINS), where=where).astype(np.int64),
        floor=_tensor(tensors, "floor", wide, (2, 3), where=where),
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


def decode_safetensors(blob: bytes, *, where: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Return the tensors (owned copies) and metadata of a safetensors blob of the types in `TYPES`.

    Args:
        blob: the whole blob.
        where: name of the blob, for errors.

    Raises:
        errors.Damaged: it is not a safetensors blob of these types, or a tensor is not within it.
    """
    if len(blob) < 8 or int.from_bytes(blob[:8], "little") > len(blob) - 8:
        raise errors.Damaged(f"{where}: no safetensors header in {len(blob)} bytes")
    length = int.from_bytes(blob[:8], "little")
    header = strict_json.parse_object(blob[8 : 8 + length], where=f"{where}: safetensors header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise errors.Damaged(f"{where}: safetensors metadata: expected texts, found {shown(metadata)}")
    body = memoryview(blob)[8 + length :]
    return {name: _decode_tensor(name, entry, body, where=where) for name, entry in header.items()}, metadata


def _decode_tensor(name: str, entry: Any, body: memoryview, *, where: str) -> npt.NDArray[Any]:
    where = f"{where}: tensor {shown(name)}"
    fields = Fields(entry if isinstance(entry, dict) else {}, where=where)
    dtype = np.dtype(TYPES[fields.text("dtype", allowed=TYPES)])
    shape = fields.integers("shape", low=0, high=2**40, lengths=range(MAX_DIMENSIONS))
    start, stop = fields.integers("data_offsets", low=0, high=len(body), lengths=range(2, 3))
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise errors.Damaged(f"{where}: {stop - start} bytes for shape {list(shape)}")
    return np.frombuffer(body[start:stop], dtype).reshape(shape).copy()
