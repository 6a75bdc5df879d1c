"""Manifest: a Parquet table of what every row shows. Its schema, its checks, and reading and writing of its files."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store import errors
from store.format import tables
from store.format.jpeg import EncodedPixels
from store.format.schema import FAILED, OK

GROUP_ROWS = 2**20

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("image_index", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),
        *(pa.field(name, pa.int32()) for name in ("source_width", "source_height", "rotate_deg")),
        *(pa.field(f"crop_{name}", pa.int32()) for name in ("top", "left", "height", "width")),
        pa.field("flip", pa.bool_()),
        *(pa.field(name, pa.float32()) for name in ("brightness", "contrast", "saturation", "hue")),
        pa.field("jitter_order", pa.string()),
        pa.field("grayscale", pa.bool_()),
        pa.field("blur_sigma", pa.float32()),
        pa.field("solarize", pa.bool_()),
        pa.field("status", pa.uint8(), nullable=False),
        pa.field("error", pa.string()),
    ]
)

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_index", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PixelsRow:
    """One row of pixels with its manifest row, as it is made from a source image.

    Attributes:
        pixels: what the shard writer takes: uint8 [H, W, 3], or their stored form; None where they cannot be made.
        error: reason why not, as `kind: details`; None for a row that was made.
        record: manifest row, by the columns of `SCHEMA`.
    """

    pixels: npt.NDArray[np.uint8] | EncodedPixels | None
    error: str | None
    record: Mapping[str, Any]


def conform(table: pa.Table, schema: pa.Schema, *, subject: str) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`.

    Args:
        table: columns in any order, of types that can be converted.
        schema: columns and types wanted.
        subject: name of the table, for the error.

    Raises:
        errors.InvalidInput: a column is absent or its values do not fit; all problems are listed.
    """
    problems, columns = [], []
    for field in schema:
        if field.name not in table.column_names:
            problems.append(f"column '{field.name}' is absent")
            continue
        column = table.column(field.name)
        if column.null_count and not field.nullable:
            problems.append(f"column '{field.name}' has {column.null_count} nulls")
            continue
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problems.append(f"column '{field.name}' is {column.type}, not {field.type}: {error}")
    extra = sorted(set(table.column_names) - set(schema.names))
    problems += [f"column '{name}' is unknown" for name in extra]
    if problems:
        raise errors.InvalidInput(f"{subject}: {'; '.join(problems)}")
    return pa.Table.from_arrays(columns, schema=schema)


def check_rows(table: pa.Table, *, rows: range, dataset: str, status: npt.NDArray[np.uint8]) -> pa.Table:
    """Return the manifest of one shard, conforming to `SCHEMA` and to what was written.

    Raises:
        errors.InvalidInput: rows, dataset or status are not those of the shard.
    """
    where = f"manifest of rows {rows.start}..{rows.stop - 1} of '{dataset}'"
    table = conform(table, SCHEMA, subject=where)
    if not np.array_equal(table["row"].to_numpy(), np.arange(rows.start, rows.stop)):
        raise errors.InvalidInput(f"{where}: column 'row' must be these rows in order, {table.num_rows} were given")
    if table["dataset"].unique().to_pylist() != [dataset]:
        raise errors.InvalidInput(f"{where}: column 'dataset' holds {table['dataset'].unique().to_pylist()}")
    differing = np.flatnonzero(table["status"].to_numpy() != status) + rows.start
    if len(differing):
        message = f"column 'status' differs from what was written in rows {differing.tolist()}"
        raise errors.InvalidInput(f"{where}: {message}; {OK} is ok, {FAILED} failed")
    return table


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a small table as Parquet with page checksums; equal tables give equal bytes (same pyarrow)."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=GROUP_ROWS)
    return sink.getvalue()


def parse_rows(data: bytes, *, rows: range, where: str) -> pa.Table:
    """Return the manifest rows of a shard from their Parquet bytes.

    Raises:
        errors.Damaged: they cannot be read, or are not manifest rows of these rows in order.
    """
    table = tables.read_bytes(data, tables.Claim(schema=SCHEMA, rows=len(rows)), where=where)
    if not np.array_equal(table["row"].to_numpy(), np.arange(rows.start, rows.stop)):
        raise errors.Damaged(f"{where}: column 'row' is not {rows.start}..{rows.stop - 1} in order")
    return table


def parse_images(data: bytes, *, images: int | None, where: str) -> pa.Table:
    """Return an image list from its Parquet bytes.

    Args:
        data: the file.
        images: number of images that it must have; None if that is not known.
        where: name of the file, for errors.

    Raises:
        errors.Damaged: it cannot be read, or is not an image list of so many images.
    """
    return tables.read_bytes(data, tables.Claim(schema=IMAGES_SCHEMA, rows=images), where=where)


def reason_kind(reason: str) -> str:
    """Return the kind of a reason, by which reasons are counted: the part before the first colon."""
    return reason.partition(":")[0].strip()
