"""Parquet tables in memory."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.format import tables
from store.format.tables import Claim


def test_no_thread_of_arrow_holds_memory_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a thread would abort a process that ends while it frees it."""
    table, stream, sources = pa.table({"image": ["a", "b"]}), io.BytesIO(), []
    pq.write_table(table, stream)
    data, opened = bytearray(stream.getvalue()), pq.ParquetFile

    def open_and_keep(source: pa.BufferReader, **options: object) -> pq.ParquetFile:
        sources.append(source)
        return opened(source, **options)

    monkeypatch.setattr(pq, "ParquetFile", open_and_keep)
    assert tables.read_bytes(data, Claim(schema=table.schema), where="images") == table  # type: ignore[arg-type]
    assert sources
    data.clear()  # refused while anything still shows its memory
