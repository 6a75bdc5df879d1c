"""Rows that failed, with their images and reasons: from the trailers of the shards that have any."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from store import errors
from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.common.threads import IN_FLIGHT, ordered_map
from store.format.manifest import reason_kind
from store.format.schema import FAILED, MISSING, PIXELS
from store.format.trailer import Trailer

THREADS = 16
SUFFIXES = (".csv", ".parquet")

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("array", pa.string()),
        ("row", pa.int64()),
        ("image_index", pa.int64()),
        ("path", pa.string()),
        ("view", pa.int32()),
        ("kind", pa.string()),
        ("reason", pa.string()),
    ]
)


def failures(cache: Cache, *, datasets: Sequence[str] | None = None, arrays: Sequence[str] | None = None) -> pa.Table:
    """Return the failed rows of a cache; needs no seal, and is quick on a sealed one.

    Args:
        cache: which.
        datasets: names; None takes all.
        arrays: `pixels` and teachers; None takes all, leaving out token rows that failed only because their pixels did.

    Returns:
        A table of `SCHEMA`, by dataset, array (pixels first) and row; `kind` is the reason up to its first colon.

    Raises:
        errors.MissingName: no such dataset, or no dataset has such an array.
        errors.Damaged: a shard is.
    """
    chosen = [cache[name] for name in (cache.datasets if datasets is None else datasets)]
    known = sorted({PIXELS, *(teacher for dataset in chosen for teacher in dataset.teachers)})
    unknown = sorted(set(arrays or ()) - set(known))
    if unknown:
        raise errors.MissingName(f"no array {', '.join(unknown)} in {cache.location}; available: {', '.join(known)}")
    parts = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="codistill-failures") as pool:
        for dataset in chosen:
            paths = dataset.image_list()["path"]
            pixels = _failed(dataset, PIXELS, pool=pool)
            for array in (PIXELS, *dataset.teachers):
                if arrays is not None and array not in arrays:
                    continue
                found = pixels if array == PIXELS else _failed(dataset, array, pool=pool)
                if arrays is None and array != PIXELS:
                    found = {row: reason for row, reason in found.items() if row not in pixels}
                parts.append(_table(dataset, array, found, paths))
    return pa.concat_tables([SCHEMA.empty_table(), *parts])


def counts_by_kind(table: pa.Table) -> list[tuple[str, int]]:
    """Return (kind, rows) of a table of failures, most frequent first."""
    counts = table.group_by("kind").aggregate([("row", "count")])
    pairs = zip(counts["kind"].to_pylist(), counts["row_count"].to_pylist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def write_table(table: pa.Table, out: Path) -> None:
    """Write a table as CSV or Parquet, by the suffix of `out`.

    Raises:
        errors.InvalidInput: another suffix.
        errors.MissingFile: the folder of `out` does not exist.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise errors.InvalidInput(f"cannot write a table to '{out}': its name must end in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise errors.MissingFile(f"cannot write to '{out}': folder '{out.parent}' does not exist")
    if out.suffix.lower() == ".csv":
        pyarrow.csv.write_csv(table, out)
    else:
        pq.write_table(table, out)


def _failed(dataset: Dataset, array: str, *, pool: ThreadPoolExecutor) -> dict[int, str]:
    """Return the reasons of an array's failed rows, ascending."""
    if dataset.array(array).layout is None:
        return {}  # somebody else's: no trailers

    def read(shard: int) -> Trailer | None:
        try:
            return dataset.read_trailer(array, shard)
        except errors.MissingShard:
            return None

    reasons: dict[int, str] = {}
    for said in ordered_map(pool, read, _shards_to_read(dataset, array), ahead=IN_FLIGHT):
        reasons |= {} if said is None else dict(sorted(said.errors.items()))
    return reasons


def _shards_to_read(dataset: Dataset, array: str) -> Iterator[int]:
    """Yield the shards with failed rows, and those that the seal does not know."""
    try:
        status: npt.NDArray[np.uint8] = dataset.status(array)
    except errors.NotSealed:
        yield from sorted(dataset.present(array))
        return
    starts = np.arange(0, dataset.rows, dataset.shard_rows)
    failed = np.logical_or.reduceat(status == FAILED, starts)
    sealed = np.logical_or.reduceat(status != MISSING, starts)
    unsealed = dataset.present(array) - set(np.flatnonzero(sealed).tolist()) if not sealed.all() else set()
    yield from sorted({*np.flatnonzero(failed).tolist(), *unsealed})


def _table(dataset: Dataset, array: str, reasons: dict[int, str], paths: pa.ChunkedArray) -> pa.Table:
    rows = np.array(list(reasons), np.int64)
    columns = {
        "dataset": [dataset.name] * len(rows),
        "array": [array] * len(rows),
        "row": rows,
        "image_index": rows // dataset.views,
        "path": paths.take(pa.array(rows // dataset.views)),
        "view": pa.array(dataset.first_view + rows % dataset.views, pa.int32()),
        "kind": [reason_kind(reason) for reason in reasons.values()],
        "reason": list(reasons.values()),
    }
    return pa.table(columns, schema=SCHEMA)


def render(table: pa.Table, console: Console, *, limit: int) -> None:
    """Print counts by kind and the first `limit` failures."""
    if not table.num_rows:
        console.print("no row failed")
        return
    counts = ", ".join(f"{count:,} x {kind}" for kind, count in counts_by_kind(table))
    console.print(Text(f"{table.num_rows:,} rows failed: {counts}"))
    lines = Table(box=box.SIMPLE_HEAD if console.encoding.lower().startswith("utf") else box.ASCII2, pad_edge=False)
    for heading in ("array", "row", "view", "image", "reason"):
        lines.add_column(heading, justify="right" if heading in ("row", "view") else "left", overflow="fold")
    for entry in table.slice(0, limit).to_pylist():
        where = f"{entry['dataset']}/{entry['array']}"
        lines.add_row(*map(Text, (where, str(entry["row"]), str(entry["view"]), entry["path"], entry["reason"])))
    console.print(lines)
    if table.num_rows > limit:
        console.print(f"... and {table.num_rows - limit:,} more: --limit shows more, --out FILE.csv writes all")
