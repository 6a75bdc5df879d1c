"""Images as bytes in Parquet files, as Hugging Face datasets and many data lakes store them."""

import hashlib
import json
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from extract.sources.base import UNKNOWN_BYTES, Listing, ListingBuilder, relative_name
from extract.sources.files import FolderSource
from extract.sources.glob import compile_globs
from extract.sources.parquet_columns import ParquetColumns, is_bytes, is_text
from store import errors
from store.common.text import some
from store.errors import DecodeError

CACHED_FILES = 64
CURSORS = 4  # two shards at a time, each perhaps across the border of two groups
# Decoding threads ask for rows nearly in order: values just passed stay for the slower ones.
RECENT_BYTES, RECENT_BATCHES = 2**26, 256


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows and columns of a Parquet file of images.

    Attributes:
        starts: first row of each row group, then the number of rows.
        images: dotted path of the column of the images' bytes.
        paths: dotted path of the column of the images' own paths; None if there is none.
    """

    starts: Sequence[int]
    images: str
    paths: str | None


class ParquetSource:
    """Images in a column of the Parquet files below a root.

    An image's path is `<file>/<row, eight digits>`, followed by `/<its own path>` where the file has one. The column
    holds bytes, or a struct with a field `bytes` (and perhaps `path`). Sizes of images are known only by reading, so a
    changed file is noticed by its own size, when it is indexed again.
    """

    def __init__(self, root: Path, *, parquets: Sequence[str], column: str, exclude: Sequence[str]) -> None:
        self.parquets = tuple(parquets)
        self.column = column
        self.exclude = tuple(exclude)
        self._files = FolderSource(root, patterns=parquets, exclude=())
        self._is_parquet = compile_globs(parquets)
        self._lock = threading.Lock()
        self._layout = lru_cache(CACHED_FILES)(self._read_layout)
        self._cursors: deque[_Cursor] = deque()  # last used last

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        listing = self._files.enumerate()
        files = json.dumps([list(listing.paths), list(listing.sizes_bytes)])
        return {
            "kind": "parquet",
            "parquet": list(self.parquets),
            "column": self.column,
            "exclude": list(self.exclude),
            "files_sha256": hashlib.sha256(files.encode()).hexdigest(),
        }

    def enumerate(self) -> Listing:
        """See `Source.enumerate`. Raises errors.InvalidInput for files that hold no images in this column."""
        excluded = compile_globs(self.exclude)
        images = ListingBuilder()
        files, problems = self._files.enumerate().paths, []
        for file in files:
            try:
                for row, own in enumerate(self._own_paths(file)):
                    name = f"{file}/{row:08d}" + (f"/{own}" if own else "")
                    if not excluded.fullmatch(name):
                        images.add(name, UNKNOWN_BYTES)
            except errors.InvalidInput as error:
                problems.append(error)
        if problems:
            raise errors.InvalidInput(f"{len(problems)} of {len(files)} Parquet files cannot be used: {some(problems)}")
        return images.finish()

    def read(self, path: str, size_bytes: int) -> bytes:
        """See `Source.read`."""
        file, row = self._location_of(path)
        try:
            with self._lock:
                starts = self._layout(file).starts
                if row >= starts[-1]:
                    raise DecodeError("missing file", f"'{file}' has {starts[-1]} rows")
                group = bisect_right(starts, row) - 1
                content = self._value(file, group, row - starts[group])
        except errors.InvalidInput as error:
            raise DecodeError("unreadable file", str(error)) from error
        except OSError as error:
            self._files.check_own_fault(error)
            raise DecodeError("unreadable file", f"'{file}': {error}") from error
        if content is None:
            raise DecodeError("empty file", "the column holds nothing in this row")
        return content

    def _location_of(self, path: str) -> tuple[str, int]:
        for at, character in enumerate(path):
            if character == "/" and self._is_parquet.fullmatch(path[:at]):
                return path[:at], int(path[at + 1 : at + 9])
        raise DecodeError("missing file", f"is in no Parquet file matching {' '.join(self.parquets)}")

    def _own_paths(self, file: str) -> Iterator[str | None]:
        """Yield the path that a file gives for each of its images; None where there is none or it cannot be used."""
        layout = self._layout(file)
        if layout.paths is None:
            yield from (None for _ in range(layout.starts[-1]))
            return
        with self._open(file) as opened:
            for path in opened.texts(layout.paths):
                yield None if path is None else relative_name(path)

    def _read_layout(self, file: str) -> Layout:
        """Read how a file is laid out. Raises errors.InvalidInput unless it has one column of bytes of images."""
        with self._open(file) as opened:
            kind = opened.type_of(self.column)
            if kind is None:
                columns = ", ".join(opened.schema.names)
                raise opened.invalid(f"no column '{self.column}'; its columns are {columns}")
            images = f"{self.column}.bytes" if pa.types.is_struct(kind) else self.column
            if not is_bytes(opened.type_of(images)):
                raise opened.invalid(
                    f"column '{self.column}' is {kind}, expected binary or a struct with binary 'bytes'"
                )
            for group in range(len(opened.group_rows)):
                opened.check_size(images, group)  # refuses what memory could not hold before anything is read
            paths = f"{self.column}.path" if opened.type_of(f"{self.column}.path") is not None else "path"
            sums = [sum(opened.group_rows[:group]) for group in range(len(opened.group_rows) + 1)]
            return Layout(starts=sums, images=images, paths=paths if is_text(opened.type_of(paths)) else None)

    def _value(self, file: str, group: int, row: int) -> bytes | None:
        """Return the bytes in a row of a row group. Goes on from an earlier row where it can; needs the lock."""
        usable = [cursor for cursor in self._cursors if (cursor.file, cursor.group) == (file, group) and row in cursor]
        if usable:
            cursor = max(usable, key=lambda cursor: cursor.next_row)
            self._cursors.remove(cursor)
        else:
            cursor = _Cursor(self._open(file), self._layout(file).images, file=file, group=group)
        self._cursors.append(cursor)
        if len(self._cursors) > CURSORS:
            self._cursors.popleft().close()
        try:
            return cursor.value(row)
        except OSError:  # of the machine: another attempt begins again
            self._cursors.pop().close()
            raise

    def _open(self, file: str) -> ParquetColumns:
        """Open a file. Raises errors.InvalidInput if it cannot be used, errors.MissingFile if the root has gone."""
        subject = f"Parquet file '{file}'"
        try:
            return ParquetColumns(self._files.open(file), subject)
        except DecodeError as error:
            raise errors.InvalidInput(f"{subject}: {error}") from error


class _Cursor:
    """A position in the images of one row group, which only moves on; the last values passed can still be read."""

    def __init__(self, opened: ParquetColumns, column: str, *, file: str, group: int) -> None:
        self.file, self.group, self.next_row = file, group, 0
        self._opened = opened
        self._batches = opened.batches(column, group)
        self._recent: deque[tuple[int, pa.Array]] = deque()  # first row and values of the last batches
        self._recent_bytes = 0
        self._damage: str | None = None

    def __contains__(self, row: int) -> bool:
        return row >= (self._recent[0][0] if self._recent else self.next_row)

    def value(self, row: int) -> bytes | None:
        """Return the bytes in a row of the row group that this cursor contains; raises as `ParquetColumns.batches`."""
        while self.next_row <= row:
            self._move_on()
        start, values = next(batch for batch in reversed(self._recent) if batch[0] <= row)
        content: bytes | None = values[row - start].as_py()
        return content

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def _move_on(self) -> None:
        if self._damage is not None:
            raise errors.InvalidInput(self._damage)  # found before, so not searched for again with every row behind it
        try:
            values = next(self._batches, None)
            if values is None:
                raise self._opened.invalid(f"row group {self.group} has only {self.next_row} rows")
        except errors.InvalidInput as error:
            self._damage = str(error)
            raise
        self._recent.append((self.next_row, values))
        self._recent_bytes += values.nbytes
        self.next_row += len(values)
        while len(self._recent) > 1 and (self._recent_bytes > RECENT_BYTES or len(self._recent) > RECENT_BATCHES):
            self._recent_bytes -= self._recent.popleft()[1].nbytes
