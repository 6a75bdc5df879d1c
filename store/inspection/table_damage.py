"""Damage of the tables that describe one array, found without reading a row or a whole manifest."""

from collections.abc import Callable, Iterator
from typing import Any

from store import errors
from store.cache import seal_record, sealed_tables
from store.cache.dataset import Dataset
from store.format.code_schema import code_arrays
from store.format.schema import PIXELS, images_key, manifest_key

PARQUET_MAGIC = b"PAR1"


def table_damage(part: Dataset, array: str) -> list[str]:
    """Return a sentence about each table, beside the status, that has gone or cannot be used.

    The record of the seal, statistics and distortion are read and their checksums compared; of the manifest and the
    image list the end alone, which says where their pages are; of the arrays of a code the sizes. A sealed table may be
    absent until the first seal has ended: the record says so.

    Args:
        part: dataset, or one part of it.
        array: `pixels`, or a teacher whose shards codistill wrote.
    """
    try:
        return _found(part, array)
    except PermissionError as error:
        return [f"'{error.filename}' cannot be read: permission denied. Give this user the right to read it"]


def _found(part: Dataset, array: str) -> list[str]:
    try:
        record = seal_record.load_record(part.storage, dataset=part.name, array=array)
        found = []
    except errors.Damaged as error:
        record, found = None, [str(error)]
    sealed = {} if record is None else record.tables
    if array == PIXELS:
        return [*found, *_image_list_damage(part), *_manifest_damage(part, sealed.get("manifest", ""))]
    return [*found, *_statistics_damage(part, array, sealed=bool(sealed)), *_code_damage(part, array)]


def _statistics_damage(part: Dataset, teacher: str, *, sealed: bool) -> Iterator[str]:
    """Yield what is wrong with statistics and distortion; absent ones only count where a seal has ended."""
    coded = part.teacher(teacher).code is not None
    reads: list[Callable[[str], Any]] = [part.statistics, *([part.distortion] if coded else [])]
    for read in reads:
        try:
            read(teacher)
        except errors.Damaged as error:
            yield str(error)
        except errors.NotSealed as error:
            if sealed:
                yield f"a sealed table has gone: {error}"


def _code_damage(part: Dataset, teacher: str) -> Iterator[str]:
    spec = part.teacher(teacher).code
    for file in code_arrays(part.name, teacher, spec).values() if spec is not None else ():
        try:
            size = part.storage.size(file.key)
        except FileNotFoundError:
            size = 0
        if size != file.stored_bytes:
            exits = f"Run: codistill store verify {part.storage.location} --repair"
            yield f"'{file.key}': {file.stored_bytes:,} bytes expected, found {size:,}. {exits}"


def _image_list_damage(part: Dataset) -> Iterator[str]:
    key = images_key(part.name)
    try:
        whole = part.storage.read_last(key, len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except FileNotFoundError:
        whole = False
    if not whole:
        yield f"'{key}' is absent or damaged. Restore the file from another copy"


def _manifest_damage(part: Dataset, mark: str) -> Iterator[str]:
    """Yield what is wrong with the manifest; `mark` is empty where no record says how it ends."""
    actual = sealed_tables.manifest_mark(part.storage, part.name) if mark else ""
    if actual != mark:
        what = "does not end as it was sealed" if actual else "has gone"
        exits = f"It is derived: delete it and run: codistill store seal {part.storage.location}"
        yield f"'{manifest_key(part.name)}' {what}. {exits}"
