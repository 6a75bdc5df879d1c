"""Benchmark at DUNE's size: opening, memory and sampling of 20.7 M rows of 19 datasets with three teachers, sealed.

    python -m benchmarks.store.scale           # 323,720 sparse shards and 2 GB of tables, some minutes
    python -m benchmarks.store.scale --quick   # seconds; tests run it

Everything is measured in fresh processes, once with the cache's tables dropped from the page cache and once warm.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, in_own_process
from benchmarks.page_cache import drop
from benchmarks.store.scale_cache import datasets_of_dune, make_cache

MEGABYTE = 1e6
DISTRIBUTIONS = ("numpy", "pyarrow", "torch")
TABLES = ("images/*", "manifest/*", "features.zarr/*/*status/c.*", "features.zarr/*/*/status/c.*", "**/zarr.json")


def main(
    folder: Path | None = None,
    out: Path = Path("benchmarks/results"),
    quick: bool = False,
    shard_rows: int = 256,
    keep: bool = False,
) -> dict[str, Any]:
    """Generate, measure, print and save `store_scale.json`.

    Args:
        folder: folder to generate the cache in; None uses the folder of temporary files.
        out: folder of the results.
        quick: use a thousandth of four datasets, and no cold tables.
        shard_rows: rows of a shard.
        keep: do not delete the cache.
    """
    console = Console()
    work = Path(tempfile.mkdtemp(prefix="codistill-scale-", dir=folder))
    cache = work / "cache"
    report: dict[str, Any] = {"benchmark": "store_scale", "quick": quick, "machine": describe(DISTRIBUTIONS)}
    try:
        begun = time.perf_counter()
        sizes = datasets_of_dune(share=1e-3)[::6] if quick else datasets_of_dune()
        report["shard_files"] = make_cache(cache, sizes, shard_rows=shard_rows)
        report["generation_s"] = time.perf_counter() - begun
        for page_cache in ("warm",) if quick else ("cold", "warm"):
            report[page_cache] = {}
            for subject in ("store", "train"):
                if page_cache == "cold":
                    drop(path for pattern in TABLES for path in cache.glob(pattern))
                report[page_cache][subject] = in_own_process("benchmarks.store.scale_probe", subject, str(cache))
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "store_scale.json").write_text(json.dumps(report) + "\n")
    print_report(report, console)
    return report


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the table."""
    opened = report["warm"]["store"]
    title = f"{opened['rows']:,} rows, {opened['datasets']} datasets, 3 teachers, {report['shard_files']:,} shard files"
    states = [state for state in ("cold", "warm") if state in report]
    table = Table("", *(f"tables {state}" for state in states), title=title)
    lines = [
        ("store.open", "store", "open_s", 1, "s"),
        ("all datasets and teachers listed", "store", "list_datasets_and_teachers_s", 1, "s"),
        ("valid_rows of all datasets, 3 teachers", "store", "valid_rows_s", 1, "s"),
        ("  memory above imports, resident", "store", "valid_rows_bytes", 1 / MEGABYTE, "MB"),
        ("  memory above imports, peak", "store", "valid_rows_peak_bytes", 1 / MEGABYTE, "MB"),
        ("trainer: mixture and sampler ready", "train", "ready_s", 1, "s"),
        ("  memory above imports, resident", "train", "ready_bytes", 1 / MEGABYTE, "MB"),
        ("  memory above imports, peak", "train", "ready_peak_bytes", 1 / MEGABYTE, "MB"),
        (f"sampler step, batch {report['warm']['train']['batch']}", "train", "step_s", 1e3, "ms"),
        ("manifest row of the largest dataset", "store", "row_lookup_s", 1, "s"),
        (f"selection by two columns, {opened['selection_of']:,} rows", "store", "selection_s", 1, "s"),
        (f"{opened['reads']:,} random reads: growth", "store", "reads_growth_bytes", 1 / MEGABYTE, "MB"),
        ("  open files", "store", "open_files", 1, ""),
    ]
    for label, subject, key, scale, unit in lines:
        values = [f"{report[page_cache][subject][key] * scale:.4g} {unit}" for page_cache in states]
        table.add_row(label, *values)
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
