"""Repair of the arrays of a code: each is written again only as what the recorded digest proves it to have been.

The same code lies in every dataset of a cache that is stored in it, so another copy is at hand; without one, a single
wrong byte is found by its checksum.
"""

from collections.abc import Iterable, Iterator
from functools import cache

from store import errors
from store.cache.cache import Cache
from store.cache.cache import open as open_cache
from store.cache.dataset import Dataset
from store.cache.metadata import stored_names
from store.format.code import Code
from store.format.code_schema import SmallArray, code_arrays
from store.format.layout import CHECKSUM_BYTES, checksum
from store.storage.base import Storage
from store.verify.problems import Kind, Problem

POLYNOMIAL = 0x82F63B78  # of crc32c, reflected


def repair_codes(storage: Storage, problems: Iterable[Problem]) -> tuple[list[str], list[str]]:
    """Write damaged arrays of codes again, where it is known what they were.

    Args:
        storage: where the cache is.
        problems: problems of a check; those of other kinds are passed over.

    Returns:
        The objects written again, and a sentence for each code that was not mended.
    """
    damaged = {(str(p.dataset), str(p.array)) for p in problems if p.kind is Kind.CODE_DAMAGED}
    repaired: list[str] = []
    left: list[str] = []
    for dataset, teacher in sorted(damaged):
        try:
            code = _mended(open_cache(storage.location), dataset, teacher)
        except errors.CodistillError as error:
            left.append(f"code of '{dataset}/{teacher}' is left as it is: {error}")
            continue
        if code is None:
            copy = f"restore code/ of '{dataset}/{teacher}' from another copy of the cache"
            left.append(f"code of '{dataset}/{teacher}' is left as it is: nothing here shows what it was; {copy}")
            continue
        repaired += _write(storage, code, dataset, teacher)
    return repaired, left


def _write(storage: Storage, code: Code, dataset: str, teacher: str) -> Iterator[str]:
    """Write the arrays of a code that differ from those stored; yield their objects."""
    files, values = code_arrays(dataset, teacher, code.spec), code.arrays()
    for name, file in files.items():
        data = file.encode(values[name])
        if _stored(storage, file) != data:
            storage.replace(file.key, data)
            yield file.key


def _mended(opened: Cache, dataset: str, teacher: str) -> Code | None:
    """Return the code that was recorded; None if it is not known."""
    info = opened.part(dataset).teacher(teacher)
    assert info.code is not None
    for name in stored_names(opened.storage):
        copy = _copy(opened.part(name), teacher, info.code.digest) if name != dataset else None
        if copy is not None:
            return copy
    return next(_one_byte_changed(opened.part(dataset), teacher), None)


def _copy(dataset: Dataset, teacher: str, digest: str) -> Code | None:
    try:
        info = dataset.teacher(teacher)
        return dataset.code(teacher) if info.code is not None and info.code.digest == digest else None
    except errors.CodistillError:
        return None


def _one_byte_changed(dataset: Dataset, teacher: str) -> Iterator[Code]:
    """Yield the codes with the recorded digest that differ from the stored one in a byte of one array."""
    info = dataset.teacher(teacher)
    assert info.code is not None
    files = code_arrays(dataset.name, teacher, info.code)
    stored = {name: _stored(dataset.storage, file) for name, file in files.items()}
    wrong = [name for name, file in files.items() if file.decode(stored[name]) is None]
    if len(wrong) != 1:
        return
    for candidate in undo_one_byte(stored[wrong[0]]):
        arrays = {name: file.decode({**stored, wrong[0]: candidate}[name]) for name, file in files.items()}
        try:
            yield Code.from_arrays(
                info.code,
                {name: values for name, values in arrays.items() if values is not None},
                prefix_tokens=info.prefix_tokens,
                patch_grid=info.patch_grid,
            )
        except errors.Damaged:
            continue


def _stored(storage: Storage, file: SmallArray) -> bytes:
    try:
        return storage.read(file.key, limit=file.stored_bytes)
    except (FileNotFoundError, errors.Damaged):
        return b""


def undo_one_byte(data: bytes) -> Iterator[bytes]:
    """Yield every chunk with a checksum that holds, and that differs in one byte: of the values, or of the checksum.

    The checksum is linear: a wrong byte changes it by a value that depends on the byte and on how many follow, so the
    steps of the checksum are undone from the end until what is left is one byte.
    """
    body, stored = data[:-CHECKSUM_BYTES], int.from_bytes(data[-CHECKSUM_BYTES:], "little")
    actual = checksum(body)
    difference = actual ^ stored
    yield body + actual.to_bytes(CHECKSUM_BYTES, "little")
    table = _table()
    by_top = {value >> 24: (byte, value) for byte, value in enumerate(table)}
    for position in range(len(body) - 1, -1, -1):
        byte, value = by_top[difference >> 24]
        difference = ((difference ^ value) << 8) & 0xFFFFFFFF | byte
        if difference < 256:
            changed = bytearray(data)
            changed[position] ^= difference
            yield bytes(changed)


@cache
def _table() -> tuple[int, ...]:
    """Return what each last byte adds to a crc32c."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)
