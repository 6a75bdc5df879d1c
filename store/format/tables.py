"""Reading of Parquet tables of a cache in memory that their size in the file justifies, or one clear error.

A few bytes of Parquet may stand for gigabytes: a page of zeros that compresses a thousandfold, a text that a dictionary
repeats, a count of rows that nothing backs. So what a file claims is checked before any of it is read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store import errors

SMALL_BYTES = 2**28  # what a table may take in memory however small its file is
MAX_EXPANSION = 64  # bytes in memory for a byte of the file; beyond `SMALL_BYTES`
SMALL_ROWS = 2**20  # rows that a table may have however small its file is
ROWS_PER_BYTE = 4  # beyond; rows of numbers that follow from one another take a byte and more
CHECKED_BYTES = 2**22  # of a file whose texts are measured first; larger ones cannot hide as much
BATCH_ROWS = 2**14


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Schema and number of rows that a table must have.

    Attributes:
        schema: columns and types, in order.
        rows: number of rows; None if that is not known.
    """

    schema: pa.Schema
    rows: int | None = None


def read(
    source: Any, claim: Claim, *, where: str, columns: Sequence[str] | None = None, filter: Any = None
) -> pa.Table:
    """Return a table, or columns and rows of it, checking page checksums.

    Args:
        source: Parquet file, as a seekable pyarrow file.
        claim: schema and number of rows that the table must have.
        where: name of the table, for errors.
        columns: names of the columns; None takes all.
        filter: pyarrow expression over any column; None takes all rows.

    Raises:
        errors.Damaged: it is not Parquet, not this table, damaged, or larger than its file justifies.
        errors.InvalidInput: there is no such column.
        pa.ArrowException: the filter cannot be computed, such as a product that overflows.
    """
    with _readable(where):
        file = pq.ParquetFile(source, page_checksum_verification=True)
        _check_claims(file, source.size(), claim, where=where)
    unknown = sorted(set(columns or ()) - set(claim.schema.names))
    if unknown:
        raise errors.InvalidInput(f"{where} has no column {unknown}; available: {claim.schema.names}")
    with _readable(where):
        if source.size() <= CHECKED_BYTES:
            _check_texts(source, claim.schema, where=where)
        selected = claim.schema.names if columns is None else list(columns)  # others may be of a later version
        if filter is None:
            return _read(source, selected)
    try:
        return _read(source, selected, filter)
    except (pa.ArrowException, OSError) as error:
        with _readable(where):
            _read(source, claim.schema.names)  # does the fault lie in the file?
        raise error


def _read(source: Any, columns: list[str], filter: Any = None) -> pa.Table:
    table = pq.read_table(source, columns=columns, filters=filter, page_checksum_verification=True)
    table.validate(full=True)  # texts that are not UTF-8
    return table


def read_bytes(data: bytes, claim: Claim, *, where: str) -> pa.Table:
    """Return the table of a small Parquet object; raises as `read`."""
    return read(_reader(data), claim, where=where)


def _reader(data: bytes) -> pa.BufferReader:
    """Return a reader of a copy in Arrow's memory.

    Arrow's threads give up memory some time after a table is read. Were it Python's, a process that ends just then
    would be aborted: a thread that frees an object of Python while the interpreter ends is stopped inside C++.
    """
    copy = pa.allocate_buffer(len(data))
    memoryview(copy).cast("B")[:] = data
    return pa.BufferReader(copy)


def stated_rows(source: Any, *, where: str) -> int:
    """Return the rows that a Parquet file states, from its end alone.

    Raises:
        errors.Damaged: it is not Parquet, or has more rows than its size justifies.
    """
    with _readable(where):
        file = pq.ParquetFile(source)
        _check_rows(file, source.size(), where=where)
        return int(file.metadata.num_rows)


def _check_claims(file: pq.ParquetFile, file_bytes: int, claim: Claim, *, where: str) -> None:
    problems = [
        f"'{field.name}' expected {field.type}, found {_type_of(file.schema_arrow, field.name)}"
        for field in claim.schema
        if _type_of(file.schema_arrow, field.name) != field.type
    ]
    if problems:
        raise errors.Damaged(f"{where} has other columns than it must have: {'; '.join(problems)[:500]}")
    _check_rows(file, file_bytes, where=where)
    if claim.rows is not None and file.metadata.num_rows != claim.rows:
        raise errors.Damaged(f"{where}: {claim.rows} rows expected, found {file.metadata.num_rows}")
    for group in range(file.metadata.num_row_groups):
        metadata = file.metadata.row_group(group)
        for number in range(metadata.num_columns):
            column = metadata.column(number)
            stored, expanded = column.total_compressed_size, column.total_uncompressed_size
            if not 0 <= stored <= file_bytes or not 0 <= expanded <= max(SMALL_BYTES, MAX_EXPANSION * stored):
                grows = f"column '{column.path_in_schema}' would grow from {stored} to {expanded} bytes"
                raise errors.Damaged(f"{where}: {grows} in memory")


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column; None unless there is exactly one of this name."""
    return schema.field(name).type if schema.names.count(name) == 1 else None


def _check_rows(file: pq.ParquetFile, file_bytes: int, *, where: str) -> None:
    metadata = file.metadata
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    limit = max(SMALL_ROWS, ROWS_PER_BYTE * file_bytes)
    if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows or metadata.num_rows > limit:
        stated = f"states {metadata.num_rows} rows, its row groups {sum(groups)}"
        raise errors.Damaged(f"{where} {stated}, in {file_bytes} bytes")


def _check_texts(source: Any, schema: pa.Schema, *, where: str) -> None:
    """Measure the texts with repeats as dictionaries, which are not expanded."""
    names = [field.name for field in schema if pa.types.is_string(field.type)]
    limit = max(SMALL_BYTES, MAX_EXPANSION * source.size())
    file = pq.ParquetFile(source, read_dictionary=names, page_checksum_verification=True)
    total = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
        for column in batch.columns:
            lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
            total += pc.sum(lengths).as_py() or 0
        if total > limit:
            raise errors.Damaged(f"{where}: its texts take more than {limit} bytes, with repeats")


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Raise whatever Arrow finds wrong with the content as errors.Damaged."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(where, error) from error  # Arrow's own: a page whose checksum differs
    except (pa.ArrowException, pa.lib.ArrowMemoryError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, errors.CodistillError):
            raise
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> errors.Damaged:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return errors.Damaged(f"{where} is damaged: {reason}")
