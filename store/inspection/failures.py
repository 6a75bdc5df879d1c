"""List of the rows that failed, with images and reasons, from the trailers of the shards that have any."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
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
from store.cache.joined_dataset import parts_of
from store.cache.row_status import RowStatus
from store.common import atomic
from store.common.threads import ThreadTeam
from store.format.layout import any_in_shard
from store.format.manifest import reason_kind
from store.format.schema import FAILED, MISSING, PIXELS

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
        cache: the cache.
        datasets: dataset names; None takes all.
        arrays: `pixels` and teachers; None takes all, leaving out token rows that failed only because their pixels did.

    Returns:
        A table of `SCHEMA`, by dataset, array (pixels first) and row; `kind` is the reason up to its first colon.

    Raises:
        errors.MissingName: no such dataset, or no dataset has such an array.
        errors.Damaged: a shard is damaged.
    """
    chosen = [cache[name] for name in (cache.datasets if datasets is None else datasets)]
    known = sorted({PIXELS, *(teacher for dataset in chosen for teacher in dataset.teachers)})
    unknown = sorted(set(arrays or ()) - set(known))
    if unknown:
        raise errors.MissingName(f"no array {', '.join(unknown)} in {cache.location}; available: {', '.join(known)}")
    parts = []
    with closing(ThreadTeam(THREADS)) as team:
        for dataset in chosen:
            paths = dataset.image_list()["path"]
            failed_pixels = _reasons(dataset, PIXELS, team=team)
            for array in (PIXELS, *dataset.teachers):
                if arrays is not None and array not in arrays:
                    continue
                reasons = failed_pixels if array == PIXELS else _reasons(dataset, array, team=team)
                if arrays is None and array != PIXELS:
                    reasons = {row: reason for row, reason in reasons.items() if row not in failed_pixels}
                parts.append(_table(dataset, array, reasons, paths))
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
    with atomic.replacing(out) as partial:
        if out.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, partial)
        else:
            pq.write_table(table, partial)


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


def _reasons(dataset: Dataset, array: str, *, team: ThreadTeam) -> dict[int, str]:
    """Return the reasons of an array's failed rows, by row, ascending."""
    reasons: dict[int, str] = {}
    for part in parts_of(dataset):
        if array != PIXELS and array not in part.teachers:
            continue  # a part that was added later
        if part.array(array).layout is None:
            continue  # no trailers: not written by codistill
        of_part = RowStatus(part, array).read_shards(_shards_to_read(part, array), team)
        reasons |= {part.first_row + row: reason for row, reason in of_part.items()}
    return reasons


def _shards_to_read(dataset: Dataset, array: str) -> list[int]:
    """Return the shards with failed rows, and those that are not sealed."""
    try:
        status = dataset.status(array)
    except errors.NotSealed:
        return sorted(dataset.present(array))
    failed = any_in_shard(status == FAILED, dataset.shard_rows)
    sealed = any_in_shard(status != MISSING, dataset.shard_rows)
    unsealed = dataset.present(array) - set(np.flatnonzero(sealed).tolist()) if not sealed.all() else set()
    return sorted({*np.flatnonzero(failed).tolist(), *unsealed})


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
