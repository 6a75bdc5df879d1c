"""Sizes that a Parquet file declares of its rows, columns and pages, without reading any value.

Arrow allocates what page headers claim, and its accessors to the metadata of columns abort the process on some damaged
files. Both are avoided by reading these few numbers here.

Source: https://github.com/apache/parquet-format, FileMetaData and PageHeader in Thrift's compact protocol.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, TypeAlias

MAGIC = b"PAR1"
TAIL_BYTES = 8  # length of the footer, magic
HEADER_BYTES, LARGEST_HEADER_BYTES = 2**12, 2**24  # of a page; statistics in it may hold whole values
DEEPEST = 32
# Types of Thrift's compact protocol.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
Fields: TypeAlias = dict[int, Any]


@dataclass(frozen=True, kw_only=True)
class ColumnSize:
    """Declared size of one column of a row group.

    Attributes:
        start: position of its first page in the file.
        stored_bytes: bytes of its pages in the file, headers included.
        expanded_bytes: bytes of its pages after decompression, headers included.
    """

    start: int
    stored_bytes: int
    expanded_bytes: int


@dataclass(frozen=True, kw_only=True)
class RowGroupSize:
    """Number of rows of a row group, and its columns by dotted path."""

    rows: int
    columns: dict[str, ColumnSize]


def row_groups(file: BufferedReader, file_bytes: int) -> Sequence[RowGroupSize]:
    """Read the sizes of all row groups.

    Raises:
        ValueError: the file is no Parquet file, or damaged.
    """
    file.seek(max(0, file_bytes - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    if len(tail) != TAIL_BYTES or tail[4:] != MAGIC:
        raise ValueError("it does not end as Parquet files do")
    footer_bytes = int.from_bytes(tail[:4], "little")
    if footer_bytes > file_bytes - TAIL_BYTES:
        raise ValueError(f"the footer claims {footer_bytes} bytes of {file_bytes}")
    file.seek(file_bytes - TAIL_BYTES - footer_bytes)
    metadata = _Compact(file.read(footer_bytes)).struct()
    return [_row_group(fields) for fields in _structs(metadata, 4)]


def page_bytes(file: BufferedReader, column: ColumnSize) -> Iterator[int]:
    """Yield the bytes of each page of a column after decompression.

    Raises:
        ValueError: a page header is damaged, or pages do not fill the column.
    """
    position, end = column.start, column.start + column.stored_bytes
    while position < end:
        header, header_bytes = _page_header(file, position, end)
        stored, expanded = _number(header, 3), _number(header, 2)
        position += header_bytes + stored
        if position > end or expanded < 0 or stored < 0:
            raise ValueError(f"a page claims {stored} bytes, {expanded} after decompression")
        yield expanded


def _page_header(file: BufferedReader, position: int, end: int) -> tuple[Fields, int]:
    size = HEADER_BYTES
    while True:
        file.seek(position)
        compact = _Compact(file.read(min(size, end - position)))
        try:
            return compact.struct(), compact.position
        except EOFError:
            if size >= min(LARGEST_HEADER_BYTES, end - position):
                raise ValueError("a page header is cut short") from None
            size *= 16


def _row_group(fields: Fields) -> RowGroupSize:
    columns = {}
    for chunk in _structs(fields, 1):
        metadata = chunk.get(3)
        if not isinstance(metadata, dict):
            raise ValueError("a column has no metadata")
        names = metadata.get(3)
        if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
            raise ValueError("a column has no name")
        data, dictionary = _number(metadata, 9), metadata.get(11)
        columns[".".join(name.decode() for name in names)] = ColumnSize(
            start=dictionary if isinstance(dictionary, int) and 0 < dictionary < data else data,
            stored_bytes=_number(metadata, 7),
            expanded_bytes=_number(metadata, 6),
        )
    return RowGroupSize(rows=_number(fields, 3), columns=columns)


def _structs(fields: Fields, number: int) -> list[Fields]:
    values = fields.get(number)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"field {number} of the footer is no list")
    return values


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"field {number} is no number")
    return value


class _Compact:
    """Reads values of Thrift's compact protocol. Raises EOFError where they end early, ValueError for other damage."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self._size = len(content)

    @property
    def position(self) -> int:
        return self._content.tell()

    def struct(self, depth: int = 0) -> Fields:
        """Read a struct as {field number: value}."""
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        fields: Fields = {}
        number = 0
        while (head := self._bytes(1)[0]) != 0:
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE, BYTE):
            return self._bytes(1)[0]
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == BINARY:
            return self._bytes(self._unsigned())
        if kind in (LIST, SET):
            head = self._bytes(1)[0]
            count = self._count(self._unsigned() if head >> 4 == 15 else head >> 4)
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"unknown type {kind}")  # maps, which Parquet does not use, too

    def _count(self, count: int) -> int:
        if count > self._size - self.position:  # every element takes a byte at least
            raise EOFError
        return count

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._bytes(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number has no end")

    def _bytes(self, count: int) -> bytes:
        content = self._content.read(self._count(count))
        if len(content) < count:
            raise EOFError
        return content
