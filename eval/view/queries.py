"""Conditions and sorting over manifests: as `data.subset` by Arrow, SQL by DuckDB.

DuckDB works in memory, on tables that it is handed: it may open no file, load nothing and change no setting, and a
query is one SELECT that ends after some seconds. What a condition of a stranger may do is compute, in functions whose
results stay small (`sql_condition.py`).
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eval.view.manifests import Manifest
from eval.view.parts import DatasetPart
from eval.view.sql_condition import TABLE, check_condition
from store import errors
from store.common.row_filter import parse
from store.format.manifest import SCHEMA

if TYPE_CHECKING:
    import duckdb

QUERY_SECONDS, ORDER_SECONDS = 30.0, 300.0  # of a condition that somebody wrote; of an order of all rows
MEMORY, ORDER_MEMORY = "1GB", "4GB"  # paths of 20 million rows in order take 3 GB
THREADS = 2
LONGEST_CONDITION = 4000
LOCKED = (
    "SET temp_directory=''",  # what does not fit is refused; else it goes into the folder that the page was started in
    "SET enable_external_access=false",
    "SET python_enable_replacements=false",
    "SET autoinstall_known_extensions=false",
    "SET autoload_known_extensions=false",
    f"SET threads={THREADS}",
    "SET lock_configuration=true",
)


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """Rows in the order of a column.

    Attributes:
        source: int16 [rows], number of the manifest that a row is of.
        row: int32 [rows].
        value: value of the column, [rows] of numbers or texts.
    """

    source: npt.NDArray[np.int16]
    row: npt.NDArray[np.int32]
    value: pa.ChunkedArray


def rows_where(manifest: Manifest, condition: str) -> npt.NDArray[np.int64]:
    """Return the rows, numbered in the whole dataset, that a condition as in `data.subset` is true for, in no order.

    Args:
        manifest: rows of one part.
        condition: condition on the columns.

    Raises:
        errors.InvalidConfig: the condition is not understood.
    """
    _check_length(condition)
    expression = parse(condition, SCHEMA, subject="where")
    try:
        if not manifest.part.first_row:
            return np.asarray(manifest.table.to_table(columns=["row"], filter=expression)["row"].to_numpy())
        batches = (_numbered(batch, manifest.part) for batch in manifest.table.to_batches())
        found = [batch.filter(expression)["row"].to_numpy() for batch in batches]
    except (pa.ArrowException, OSError) as error:
        raise errors.InvalidInput(f"where: {' '.join(str(error).split())[:300]}") from error
    return np.concatenate([np.zeros(0, np.int64), *found])


def rows_where_sql(manifest: Manifest, condition: str) -> npt.NDArray[np.int64]:
    """Return the rows, numbered in the whole dataset, that a SQL condition is true for, in no order.

    Raises:
        errors.InvalidInput: the condition is refused or fails; DuckDB's reason is told.
    """
    _check_length(condition)
    with _connection({"p": manifest.table}, seconds=QUERY_SECONDS) as connection:
        check_condition(connection, condition)
        connection.execute(f"CREATE VIEW {TABLE} AS {_whole('p', manifest.part)}")
        table = _select(connection, f"SELECT row FROM {TABLE} WHERE (\n{condition}\n)")
    return np.asarray(table["row"].drop_null().to_numpy())


def ordered(
    manifests: Sequence[tuple[int, Manifest]],
    column: str,
    *,
    chosen: Mapping[int, npt.NDArray[np.integer[Any]]],
    descending: bool,
    limit: int | None,
) -> Ordered:
    """Return rows in the order of a column; empty values last, ties by dataset and row.

    Args:
        manifests: number of the dataset, and rows of one of its parts.
        column: name of a column.
        chosen: rows by number of the dataset; those without an entry have all of their rows.
        descending: whether the largest value comes first.
        limit: rows to return, from the first; None returns all.

    Raises:
        errors.InvalidInput: there is no such column, or it takes too long.
    """
    if column not in SCHEMA.names:
        raise errors.InvalidInput(f"sort: no column '{column[:40]}'; expected one of {', '.join(SCHEMA.names)}")
    if not manifests:
        none = pa.chunked_array([], SCHEMA.field(column).type)
        return Ordered(source=np.zeros(0, np.int16), row=np.zeros(0, np.int32), value=none)
    tables: dict[str, Any] = {f"c{number}": pa.table({"row": pa.array(r, pa.int64())}) for number, r in chosen.items()}
    selects = []
    for place, (number, manifest) in enumerate(manifests):
        tables[f"p{place}"] = manifest.table
        join = f" SEMI JOIN c{number} USING (row)" if number in chosen else ""
        whole = _whole(f"p{place}", manifest.part)
        selects.append(
            f'SELECT {number}::SMALLINT AS source, row::INTEGER AS row, "{column}" AS value FROM ({whole}){join}'
        )
    direction = "DESC" if descending else "ASC"
    end = "" if limit is None else f" LIMIT {limit}"
    query = f"{' UNION ALL '.join(selects)} ORDER BY value {direction} NULLS LAST, source, row{end}"
    with _connection(tables, seconds=ORDER_SECONDS, memory=ORDER_MEMORY) as connection:
        table = _select(connection, query)
    return Ordered(
        source=table["source"].to_numpy(),
        row=table["row"].to_numpy(),
        value=table["value"],
    )


def _whole(table: str, part: DatasetPart) -> str:
    """Return a query of a part's rows with the numbers and the name of the whole dataset."""
    if not part.first_row:
        return f"SELECT * FROM {table}"
    numbers = f"row + {part.first_row} AS row, image_index + {part.first_image} AS image_index"
    return f"SELECT * REPLACE ({numbers}, '{part.dataset}' AS dataset) FROM {table}"


def _numbered(batch: pa.RecordBatch, part: DatasetPart) -> pa.Table:
    """Return rows of a part with the numbers and the name of the whole dataset."""
    table = pa.Table.from_batches([batch])
    for name, first in (("row", part.first_row), ("image_index", part.first_image)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(table[name].to_numpy() + first, pa.int64()))
    place = table.schema.get_field_index("dataset")
    return table.set_column(place, table.schema.field(place), pa.array([part.dataset] * table.num_rows, pa.string()))


@contextmanager
def _connection(
    tables: Mapping[str, Any], *, seconds: float, memory: str = MEMORY
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """Open a database in memory with some tables and nothing else; what runs is ended after some seconds."""
    import duckdb

    connection = duckdb.connect(":memory:")
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    try:
        for name, table in tables.items():
            connection.register(name, table)
        for setting in (f"SET memory_limit='{memory}'", *LOCKED):
            connection.execute(setting)
        timer.start()
        yield connection
    finally:
        timer.cancel()
        connection.close()
        pa.default_memory_pool().release_unused()


def _select(connection: "duckdb.DuckDBPyConnection", query: str) -> pa.Table:
    """Run one SELECT."""
    import duckdb

    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise errors.InvalidInput("sql: expected one condition, found other statements")
        return connection.sql(query).to_arrow_table()
    except duckdb.InterruptException:
        message = "it took too long and was ended. Narrow it down, for example to one dataset"
        raise errors.InvalidInput(f"sql: {message}") from None
    except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
        raise errors.InvalidInput(f"sql: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """Return what DuckDB says, without the drawing of where."""
    return " ".join(str(error).partition("\n\nLINE")[0].split())[:300]


def _check_length(condition: str) -> None:
    if len(condition) > LONGEST_CONDITION:
        raise errors.InvalidInput(f"condition: at most {LONGEST_CONDITION} characters, found {len(condition)}")
