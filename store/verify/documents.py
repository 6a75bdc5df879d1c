"""Repair of zarr.json documents: each is written again only as what is proven to have been there.

Proof is the sum that a seal recorded, or the document's own checksum. A document is found again by undoing one wrong
byte, from what it follows from, or from that of the same teacher in another dataset.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from store import errors
from store.cache import seal_record
from store.cache.metadata import read_dataset_node, read_root, stored_names
from store.format import pixels_schema, schema
from store.format.attributes import DatasetAttributes, TeacherAttributes
from store.format.code_schema import CODE, code_arrays
from store.format.schema import CODES, HIERARCHY, PIXELS, TOKENS
from store.storage.base import Storage
from store.verify.problems import Kind, Problem

MAX_DOCUMENT_BYTES = 2**13  # of documents whose every bit is tried

Proof = Callable[[bytes], bool]


def repair_documents(storage: Storage, problems: Iterable[Problem]) -> tuple[list[str], list[str]]:
    """Write damaged documents again, where it is known what they were.

    Args:
        storage: where the cache is.
        problems: problems of a check; those of other kinds are passed over.

    Returns:
        The objects written again, and a sentence for each that was not.
    """
    keys = {problem.key for problem in problems if problem.kind is Kind.METADATA_DAMAGED}
    repaired, left = [], []
    for key in sorted(keys, key=lambda key: (key.count("/"), key)):
        document = _original(storage, key)
        if document is None:
            exits = "restore it from another copy, or see docs/verify.md"
            left.append(f"'{key}' is left as it is: nothing here shows what it was; {exits}")
        else:
            storage.replace(key, document)
            repaired.append(key)
    return repaired, left


def _original(storage: Storage, key: str) -> bytes | None:
    """Return the document as it was written; None if that is not known."""
    try:
        stored = storage.read(key, limit=MAX_DOCUMENT_BYTES)
    except (FileNotFoundError, NotADirectoryError, errors.Damaged):
        stored = b""
    path = key.rpartition("/")[0]
    sums = _recorded_sums(storage, key)
    if sums:
        candidates = [*_derived(storage, path), *_of_other_datasets(storage, path)]
        return next(_proven(chain(candidates, _one_byte_changed(stored)), _one_of(sums)), None)
    derived = list(_derived(storage, path)) if _cannot_be_read(path, stored) else []
    return derived[0] if derived else next(_proven(_one_bit_changed(stored), _has_checksum(path)), None)


def _proven(candidates: Iterable[bytes], proof: Proof) -> Iterator[bytes]:
    return (candidate for candidate in candidates if proof(candidate))


def _one_of(sums: set[str]) -> Proof:
    return lambda data: hashlib.sha256(data).hexdigest() in sums


def _has_checksum(path: str) -> Proof:
    def proof(data: bytes) -> bool:
        try:
            return schema.parse_node(path, data).has_checksum
        except errors.CodistillError:
            return False

    return proof


def _recorded_sums(storage: Storage, key: str) -> set[str]:
    """Return the sums of a document in the records of all seals whose checksums hold."""
    sums = set()
    for entry in storage.list_objects("seal"):
        dataset, array = [*entry.name.removesuffix(".safetensors").split("."), ""][:2]
        record = seal_record.trusted_record(storage, dataset=dataset, array=array)
        if record is not None and key in record.sha256:
            sums.add(record.sha256[key])
    return sums


def _derived(storage: Storage, path: str) -> Iterator[bytes]:
    """Yield what a document must be, where it follows from others: those of pixels, teachers' groups, and codes."""
    parts = path.split("/")
    if len(parts) in (4, 5) and parts[3] == CODE:
        yield from _derived_of_code(storage, path)
        return
    if len(parts) != 3:
        return
    if parts[2] != PIXELS:
        yield schema.group_document()
        return
    try:
        cache, dataset = read_root(storage), DatasetAttributes.of(read_dataset_node(storage, parts[1]))
    except errors.CodistillError:
        return
    sizes = {"rows": dataset.rows, "image_size": cache.image_size, "shard_rows": cache.shard_rows}
    document = pixels_schema.pixels_document(**sizes, jpeg=cache.jpeg)
    yield document
    yield schema.without_checksum(document)


def _derived_of_code(storage: Storage, path: str) -> Iterator[bytes]:
    """Yield what the document of a code's group or of one of its arrays must be."""
    _, dataset, teacher, *below = path.split("/")
    if len(below) == 1:
        yield schema.group_document()
        return
    codes = schema.array_path(dataset, teacher, CODES)
    try:
        spec = TeacherAttributes.of(schema.parse_array(codes, storage.read(f"{codes}/zarr.json"))).code
    except (FileNotFoundError, errors.CodistillError):
        return
    arrays = {} if spec is None else code_arrays(dataset, teacher, spec)
    if below[1] in arrays:
        yield arrays[below[1]].document


def _of_other_datasets(storage: Storage, path: str) -> Iterator[bytes]:
    """Yield the documents of a teacher's tokens or codes in other datasets, with the rows of this one."""
    parts = path.split("/")
    if parts[-1] not in (TOKENS, CODES):
        return
    try:
        rows = DatasetAttributes.of(read_dataset_node(storage, parts[1])).rows
    except errors.CodistillError:
        return
    for name in stored_names(storage):
        try:
            node = schema.parse_array(path, storage.read(f"{HIERARCHY}/{name}/{parts[2]}/{parts[-1]}/zarr.json"))
        except (FileNotFoundError, errors.CodistillError):
            continue
        if node.layout is not None:
            document = schema.rendering({**node.document, "shape": [rows, *node.shape[1:]]})
            yield document
            yield schema.without_checksum(document)


def _cannot_be_read(path: str, stored: bytes) -> bool:
    """Return whether a document is absent or damaged, and not that of another program."""
    if CODE in path.split("/")[3:]:
        return True  # other programs have no code there
    try:
        return schema.parse_node(path, stored).document.get("node_type") == "group"
    except errors.CodistillError:
        return True


def _one_bit_changed(data: bytes) -> Iterator[bytes]:
    return _changed(data, [1 << bit for bit in range(8)])


def _one_byte_changed(data: bytes) -> Iterator[bytes]:
    return _changed(data, range(1, 256))


def _changed(data: bytes, masks: Iterable[int]) -> Iterator[bytes]:
    """Yield `data` with one byte changed, for every byte and mask."""
    masks = list(masks)
    changed = bytearray(data)
    for position in range(len(data)):
        for mask in masks:
            changed[position] ^= mask
            yield bytes(changed)
            changed[position] ^= mask
