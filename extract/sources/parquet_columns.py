"""Read columns of untrusted Parquet files in bounded memory, or fail with one clear error.

A few bytes of Parquet may stand for gigabytes: a page of zeros that compresses a thousandfold, or one value that a
dictionary repeats. So nothing is read before the sizes that the file declares have been checked, and values come in
batches so small that the largest value the column can hold may stand in every row.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from os import fstat
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from extract.sources.parquet_sizes import ColumnSize, page_bytes, row_groups
from store import errors
from store.common.text import human_bytes

MAX_EXPANSION = 64  # bytes in memory for a byte of the file; photographs hardly compress
SMALL_BYTES = 2**28  # what a file may expand to however small it is
BATCH_BYTES = 2**26
MAX_BATCH_ROWS = 1024
LISTED_ROW_BYTES = 64  # of a row in a list, beside its text


class ParquetColumns:
    """An open Parquet file. A context manager, which closes the file.

    Args:
        file: file to read.
        subject: name of the file, for errors.

    Raises:
        errors.InvalidInput: the file is no Parquet file, or what it claims of itself cannot be.
        OSError: the file cannot be read.
    """

    def __init__(self, file: BufferedReader, subject: str) -> None:
        self._file, self._subject = file, subject
        self._file_bytes = fstat(file.fileno()).st_size
        try:
            with self._readable():
                self._parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
                self.schema: pa.Schema = self._parquet.schema_arrow
                self._groups = row_groups(file, self._file_bytes)
            self._check_rows()
        except BaseException:
            file.close()
            raise
        weakref.finalize(self, file.close)  # readers that end with their process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def group_rows(self) -> Sequence[int]:
        """Number of rows of each row group."""
        return [group.rows for group in self._groups]

    @property
    def listed_bytes(self) -> int:
        """Largest memory that a list with an entry for each row may take."""
        return max(SMALL_BYTES, MAX_EXPANSION * self._file_bytes)

    def invalid(self, problem: str) -> errors.InvalidInput:
        """Return an error that names this file."""
        return errors.InvalidInput(f"{self._subject}: {problem}")

    def type_of(self, path: str) -> pa.DataType | None:
        """Return the type of the column at a dotted path; None unless there is exactly one."""
        first, *inner = path.split(".")
        if self.schema.names.count(first) != 1:
            return None
        kind = self.schema.field(self.schema.names.index(first)).type
        for name in inner:
            number = kind.get_field_index(name) if pa.types.is_struct(kind) else -1
            if number < 0:
                return None
            kind = kind.field(number).type
        return kind

    def texts(self, path: str) -> Iterator[str | None]:
        """Yield the strings of a column, row by row; raises as `batches`, and for more text than fits memory."""
        left = self.listed_bytes
        for group in range(len(self.group_rows)):
            for values in self.batches(path, group):
                with self._readable():
                    texts = values.to_pylist()
                left -= sum(LISTED_ROW_BYTES + len(text or "") for text in texts)
                if left < 0:
                    limit = human_bytes(self.listed_bytes)
                    raise self.invalid(f"the texts of column '{path}' take more than {limit}, with repeats")
                yield from texts

    def batches(self, path: str, group: int) -> Iterator[pa.Array]:
        """Yield the values of one column of one row group, in batches of bounded size.

        Args:
            path: dotted path of a column of bytes or strings.
            group: number of the row group.

        Raises:
            errors.InvalidInput: the column is damaged, or would take more memory than its bytes in the file justify.
            OSError: the file cannot be read.
        """
        column = self.check_size(path, group)
        with self._readable():
            pages_bytes = 0
            for expanded_bytes in page_bytes(self._file, column):
                pages_bytes += expanded_bytes
                if pages_bytes > column.expanded_bytes:
                    raise ValueError(f"column '{path}' claims {column.expanded_bytes} bytes, its pages more")
        rows = MAX_BATCH_ROWS
        if not pa.types.is_dictionary(self.type_of(path)):  # those are not expanded
            rows = max(1, min(rows, BATCH_BYTES // max(1, column.expanded_bytes)))  # no value is larger than all
        with self._readable():
            for batch in self._parquet.iter_batches(rows, row_groups=[group], columns=[path], use_threads=False):
                values = batch.column(0)
                for name in path.split(".")[1:]:
                    values = values.field(name)
                yield values

    def check_size(self, path: str, group: int) -> ColumnSize:
        """Return the declared size of a column of a row group; refuses one that memory could not hold.

        Raises:
            errors.InvalidInput: the column would take more memory than its bytes in the file justify.
        """
        column = self._groups[group].columns.get(path)
        if column is None:
            raise self.invalid(f"row group {group} lacks column '{path}'")
        stored, expanded = column.stored_bytes, column.expanded_bytes
        limit = max(SMALL_BYTES, MAX_EXPANSION * stored)
        if not (stored >= 0 <= column.start <= self._file_bytes - stored):
            raise self.invalid(f"column '{path}' claims bytes {column.start} to {column.start + stored} of the file")
        if not 0 <= expanded <= limit:
            raise self.invalid(
                f"column '{path}' would grow from {human_bytes(stored)} to {human_bytes(expanded)} in memory, expected "
                f"at most {human_bytes(limit)}. Write encoded images, such as JPEG or PNG, in smaller row groups"
            )
        return column

    def _check_rows(self) -> None:
        rows, limit = self._parquet.metadata.num_rows, self.listed_bytes // LISTED_ROW_BYTES
        if min(self.group_rows, default=0) < 0 or sum(self.group_rows) != rows:
            raise self.invalid(f"claims {rows} rows, its row groups {sum(self.group_rows)}")
        if rows > limit:
            raise self.invalid(f"claims {rows} rows in {self._file_bytes} bytes, expected at most {limit}")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raise whatever Arrow finds wrong with the content as errors.InvalidInput."""
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._damaged(error) from error  # Arrow's own: a page that cannot be decompressed
        except (pa.ArrowException, pa.lib.ArrowMemoryError, ValueError, KeyError, EOFError, OverflowError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> errors.InvalidInput:
        reason = " ".join(str(error).split()) or type(error).__name__
        return self.invalid(f"cannot be read as Parquet ({reason})")


def is_bytes(kind: pa.DataType | None) -> bool:
    """Return whether a column of this type holds byte strings."""
    return _plain(kind) in (pa.binary(), pa.large_binary(), pa.binary_view())


def is_text(kind: pa.DataType | None) -> bool:
    """Return whether a column of this type holds text."""
    return _plain(kind) in (pa.string(), pa.large_string(), pa.string_view())


def _plain(kind: pa.DataType | None) -> pa.DataType | None:
    return kind.value_type if kind is not None and pa.types.is_dictionary(kind) else kind
