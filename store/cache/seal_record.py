"""Record of a seal: the shards that the sealed tables of an array were made from, and sums of what describes them."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.common import strict_json
from store.common.strict_json import Fields
from store.format.code_schema import code_arrays, code_path, distortion_paths
from store.format.code_spec import CodeSpec
from store.format.layout import checksum
from store.format.schema import (
    CODES,
    HIERARCHY,
    MAX_ROWS,
    PIXELS,
    array_path,
    json_bytes,
    manifest_key,
    record_key,
    statistics_path,
    status_path,
)
from store.format.trailer import decode_safetensors, encode_safetensors
from store.storage.base import Storage

DIGEST_BYTES = 32
MAX_RECORD_BYTES = 2**30
CHECKSUM = re.compile(rb'"crc32c":"([0-9a-f]{8})"')  # in the metadata; quotes inside of texts are escaped
UNSET_CHECKSUM = b'"crc32c":"00000000"'
BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of the shards that the sealed tables of an array were made from; the next seal then reads only new ones.

    Attributes:
        fingerprints: uint32 [shards], crc32c of each sealed shard's trailer, 0 where there is none.
        pixels_digests: uint8 [shards, 32], digest of each pixel shard (for tokens, of the one they were computed from).
        counts: number of ok and of failed rows.
        reasons: number of failed rows by kind of reason (the part before the first colon).
        tables: marks of the sealed tables, so that a mixture of two seals is noticed.
        sha256: sums of the documents (and of the code) that describe the array, and of the manifest, by object.
        checked: whether the record carried a checksum that holds; records of earlier versions have none.
    """

    fingerprints: npt.NDArray[np.uint32]
    pixels_digests: npt.NDArray[np.uint8]
    counts: dict[str, int]
    reasons: dict[str, int]
    tables: dict[str, str]
    sha256: dict[str, str] = field(default_factory=dict)
    checked: bool = True

    def encode(self) -> bytes:
        """Return the record as a safetensors blob with the checksum of its bytes, computed with zeros in its place."""
        fields = {"counts": self.counts, "reasons": self.reasons, "sha256": self.sha256, "tables": self.tables}
        metadata = {"codistill": json_bytes(fields).decode(), "crc32c": "0" * 8}
        tensors: dict[str, npt.NDArray[Any]] = {
            "fingerprints": self.fingerprints,
            "pixels_digests": self.pixels_digests,
        }
        unset = encode_safetensors(tensors, metadata)
        return unset.replace(UNSET_CHECKSUM, f'"crc32c":"{checksum(unset):08x}"'.encode(), 1)


def load_record(storage: Storage, *, dataset: str, array: str) -> Record | None:
    """Return the record of the last seal of an array; None if there is none.

    Raises:
        errors.Damaged: it is not what a seal wrote.
    """
    key = record_key(dataset, array)
    try:
        return decode_record(storage.read(key, limit=MAX_RECORD_BYTES), where=f"'{key}'")
    except FileNotFoundError:
        return None
    except errors.Damaged as error:
        exits = f"It is derived: delete it and run: codistill store seal {storage.location}"
        raise errors.Damaged(f"{error}. {exits}") from None


def read_record(storage: Storage, *, dataset: str, array: str) -> Record | None:
    """Return the record of the last seal of an array; None if there is none that can be used."""
    try:
        return load_record(storage, dataset=dataset, array=array)
    except errors.Damaged:
        return None


def trusted_record(storage: Storage, *, dataset: str, array: str) -> Record | None:
    """Return the record of the last seal of an array, if a checksum shows that it is what was written."""
    record = read_record(storage, dataset=dataset, array=array)
    return record if record is not None and record.checked else None


def documents_of(dataset: str, array: str, code: CodeSpec | None = None) -> tuple[str, ...]:
    """Return the objects that say what the rows of an array are, from the root on; none of them changes.

    They are zarr.json documents; where rows are stored in a code, its arrays too.
    """
    own = f"{HIERARCHY}/{dataset}/{array}/zarr.json"
    groups = (f"{HIERARCHY}/zarr.json", f"{HIERARCHY}/{dataset}/zarr.json", *(() if array == PIXELS else (own,)))
    if code is None:
        return (*groups, f"{array_path(dataset, array)}/zarr.json")
    files = code_arrays(dataset, array, code).values()
    documents = (f"{array_path(dataset, array, CODES)}/zarr.json", f"{code_path(dataset, array)}/zarr.json")
    return (*groups, *documents, *(key for file in files for key in (file.document_key, file.key)))


def derived_documents_of(dataset: str, array: str, *, coded: bool = False) -> tuple[str, ...]:
    """Return the zarr.json objects of the sealed tables of an array."""
    paths = [status_path(dataset, array), *([] if array == PIXELS else [statistics_path(dataset, array)])]
    paths += distortion_paths(dataset, array) if coded else ()
    return tuple(f"{path}/zarr.json" for path in paths)


def recorded_documents(record: Record, dataset: str, array: str) -> tuple[str, ...]:
    """Return the objects of which a record has sums and that never change."""
    derived = {*derived_documents_of(dataset, array, coded=True), manifest_key(dataset)}
    return tuple(key for key in record.sha256 if key not in derived)


def sums(storage: Storage, keys: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of objects by key; absent objects have none."""
    sha256 = {}
    for key in keys:
        try:
            sha256[key] = object_sha256(storage, key)
        except FileNotFoundError:
            continue
    return sha256


def changed(storage: Storage, keys: Iterable[str], record: Record) -> list[str]:
    """Return the objects, of those with these keys, that are not those of the record, or absent."""
    wanted = list(keys)
    actual = sums(storage, wanted)
    return [key for key in wanted if key not in actual or actual[key] != record.sha256.get(key)]


def object_sha256(storage: Storage, key: str) -> str:
    """Return the sha256 of an object of any size, hexadecimal.

    Raises:
        FileNotFoundError: no such object.
    """
    digest = hashlib.sha256()
    with storage.arrow_file(key) as source:  # opened anew: an object kept open may have been replaced since
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def decode_record(blob: bytes, *, where: str) -> Record:
    """Return the record of a safetensors blob.

    Args:
        blob: the object.
        where: its name, for errors.

    Raises:
        errors.Damaged: it is not what a seal writes, or its checksum differs.
    """
    tensors, metadata = decode_safetensors(blob, where=where)
    fingerprints, digests = tensors.get("fingerprints"), tensors.get("pixels_digests")
    if (
        fingerprints is None
        or digests is None
        or (fingerprints.dtype, fingerprints.ndim) != (np.dtype("<u4"), 1)
        or (digests.dtype, digests.shape) != (np.dtype("u1"), (len(fingerprints), DIGEST_BYTES))
    ):
        raise errors.Damaged(f"{where}: expected fingerprints and digests of shards")
    values = strict_json.parse_object(metadata.get("codistill", ""), where=where)
    fields = Fields(values, where=where)
    counts, reasons, tables = (fields.mapping(name) for name in ("counts", "reasons", "tables"))
    whole = all(strict_json.is_integer(count, low=0, high=MAX_ROWS) for count in (*counts.values(), *reasons.values()))
    if set(counts) != {"ok", "failed"} or not whole or not all(isinstance(mark, str) for mark in tables.values()):
        raise errors.Damaged(f"{where}: expected numbers of rows and marks of tables")
    sums = fields.mapping("sha256", optional=True)
    checked = "crc32c" in metadata or set(values) != {"counts", "reasons", "tables"}
    if checked:
        _check(blob, where=where)
    return Record(
        fingerprints=fingerprints,
        pixels_digests=digests,
        counts=counts,
        reasons=reasons,
        tables=tables,
        sha256={key: Fields(sums, where=f"{where}: sha256").hexadecimal(key, digits=64) for key in sums},
        checked=checked,
    )


def _check(blob: bytes, *, where: str) -> None:
    """Compare the checksum of a record with its bytes."""
    header_bytes = int.from_bytes(blob[:8], "little")
    stored = CHECKSUM.findall(blob[: 8 + header_bytes])
    if len(stored) != 1:
        raise errors.Damaged(f"{where}: its checksum is not where a seal writes it")
    unset = blob.replace(b'"crc32c":"%s"' % stored[0], UNSET_CHECKSUM, 1)
    if checksum(unset) != int(stored[0], 16):
        raise errors.Damaged(f"{where}: its checksum differs")
