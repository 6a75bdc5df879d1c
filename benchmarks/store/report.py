"""Report of `benchmarks.store`: tables for the terminal and a bar chart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

CODISTILL = "codistill"
RAW = ("preadv", "sequential write")
COLOURS = {"codistill": "#2a6fdb", "raw": "#444444", "peer": "#b8bec8"}
COLUMNS = (("random", "warm"), ("random", "cold"), ("sequential", "warm"), ("sequential", "cold"))


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables of reading and writing, memory, and the peers that were not run."""
    console.print(_reading_table(report["reading"], title=_reading_title(report)))
    console.print(_writing_table(report["writing"]))
    memory = report["memory"]
    growth = memory["growth_bytes"] / 2**20
    console.print(
        f"memory over {memory['reads']:,} random rows of '{memory['array']}': {growth:+.2f} MiB, "
        f"{memory['open_files']} open files"
    )
    for name, modules in report["not_run"].items():
        console.print(f"not run: {name} (not installed: {', '.join(modules)})")


def _reading_title(report: Mapping[str, Any]) -> str:
    size = report["rows"] * report["row_bytes"] / 1e9
    return f"reading {report['rows']} rows, {size:.2f} GB, {report['batch']} rows a batch: GB/s (x raw)"


def _reading_table(records: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    table = Table("reader", *(f"{order}, {page_cache}" for order, page_cache in COLUMNS), title=title)
    cells = {(record["reader"], record["order"], record["page_cache"]): record for record in records}
    for reader in dict.fromkeys(record["reader"] for record in records):
        table.add_row(
            reader,
            *(_cell(cells[reader, *column]) for column in COLUMNS),
            style="bold" if CODISTILL in reader else None,
        )
    return table


def _writing_table(records: Sequence[Mapping[str, Any]]) -> Table:
    arrays = list(dict.fromkeys(record["array"] for record in records))
    table = Table("writer", *arrays, title="writing, durable: GB/s (x sequential write + fsync)")
    cells = {(record["writer"], record["array"]): record for record in records}
    for writer in dict.fromkeys(record["writer"] for record in records):
        table.add_row(
            writer, *(_cell(cells[writer, array]) for array in arrays), style="bold" if CODISTILL in writer else None
        )
    return table


def _cell(record: Mapping[str, Any]) -> str:
    return f"{record['gb_per_s']:.2f} ({record['ratio_to_raw']:.2f})"


def plot_speeds(report: Mapping[str, Any], path: Path) -> None:
    """Save a bar chart of the speeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    reading, writing = figure.subplots(2, 2)
    for axis, page_cache in zip(reading, ("warm", "cold"), strict=True):
        records = [r for r in report["reading"] if r["order"] == "random" and r["page_cache"] == page_cache]
        _bars(axis, records, label="reader", title=f"reading random rows, page cache {page_cache}")
    arrays = dict.fromkeys(record["array"] for record in report["writing"])
    for axis, array in zip(writing, arrays, strict=True):
        records = [record for record in report["writing"] if record["array"] == array]
        _bars(axis, records, label="writer", title=f"writing '{array}', durable")
    figure.savefig(path, dpi=110)


def _bars(axis: Any, records: Sequence[Mapping[str, Any]], *, label: str, title: str) -> None:
    names = [record[label] for record in records]
    speeds = [record["gb_per_s"] for record in records]
    bars = axis.barh(names, speeds, color=[COLOURS[_kind(name)] for name in names])
    axis.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.set(title=title, xlabel="GB/s", xlim=(0, 1.15 * max(speeds)))
    axis.spines[["top", "right"]].set_visible(False)


def _kind(name: str) -> str:
    if name.startswith(CODISTILL):
        return "codistill"
    return "raw" if name.startswith(RAW) else "peer"
