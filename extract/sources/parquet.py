"""Images as bytes in Parquet files, as Hugging Face datasets and many data lakes store them."""

import hashlib
import json
import threading
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extract.sources.base import UNKNOWN_BYTES, Listing, ListingBuilder, relative_name
from extract.sources.files import FolderSource
from extract.sources.glob import compile_globs
from store import errors
from store.errors import DecodeError

CACHED_FILES = 64
CACHED_ROW_GROUPS = 4  # two shards at a time, each perhaps across the border of two groups


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
        self._first_rows = lru_cache(CACHED_FILES)(self._scan_row_groups)
        self._images = lru_cache(CACHED_ROW_GROUPS)(self._read_row_group)

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
        """See `Source.enumerate`. Raises errors.InvalidInput for a file that holds no such column."""
        excluded = compile_globs(self.exclude)
        images = ListingBuilder()
        for file in self._files.enumerate().paths:
            for row, own in enumerate(self._own_paths(file)):
                name = f"{file}/{row:08d}" + (f"/{own}" if own else "")
                if not excluded.fullmatch(name):
                    images.add(name, UNKNOWN_BYTES)
        return images.finish()

    def read(self, path: str, size_bytes: int) -> bytes:
        """See `Source.read`."""
        file, row = self._location_of(path)
        try:
            with self._lock:
                starts = self._first_rows(file)
                group = bisect_right(starts, row) - 1
                if row >= starts[-1]:
                    raise DecodeError("missing file", f"'{file}' has {starts[-1]} rows")
                images = self._images(file, group)
        except (OSError, pa.ArrowInvalid, errors.InvalidInput) as error:
            self._files.check_root()
            raise DecodeError("unreadable file", f"'{file}': {error}") from error
        content = images[row - starts[group]].as_py()
        if content is None:
            raise DecodeError("empty file", "the column holds nothing in this row")
        return bytes(content)

    def _location_of(self, path: str) -> tuple[str, int]:
        for at, character in enumerate(path):
            if character == "/" and self._is_parquet.fullmatch(path[:at]):
                return path[:at], int(path[at + 1 : at + 9])
        raise DecodeError("missing file", f"is in no Parquet file matching {' '.join(self.parquets)}")

    def _own_paths(self, file: str) -> list[str | None]:
        """Return the path that a file gives for each of its images; None where there is none or it cannot be used."""
        with self._open(file) as opened:
            kind = opened.schema_arrow.field(self.column).type
            if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                table = opened.read(columns=[f"{self.column}.path"])
                paths = table[self.column].combine_chunks().field("path").to_pylist()
            elif "path" in opened.schema_arrow.names:
                paths = opened.read(columns=["path"])["path"].to_pylist()
            else:
                paths = [None] * opened.metadata.num_rows
        return [None if path is None else relative_name(str(path)) for path in paths]

    def _scan_row_groups(self, file: str) -> list[int]:
        """Return the first row of each row group, then the number of rows."""
        with self._open(file) as opened:
            counts = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
        return [sum(counts[:group]) for group in range(len(counts) + 1)]

    def _read_row_group(self, file: str, group: int) -> pa.Array:
        with self._open(file) as opened:
            kind = opened.schema_arrow.field(self.column).type
            if pa.types.is_struct(kind):
                table = opened.read_row_group(group, columns=[f"{self.column}.bytes"])
                return table[self.column].combine_chunks().field("bytes")
            return opened.read_row_group(group, columns=[self.column])[self.column].combine_chunks()

    def _open(self, file: str) -> pq.ParquetFile:
        opened = pq.ParquetFile(self._files.root / file)
        if self.column not in opened.schema_arrow.names:
            columns = ", ".join(opened.schema_arrow.names)
            opened.close()
            raise errors.InvalidInput(f"Parquet file '{file}': no column '{self.column}'; its columns are {columns}")
        return opened
