"""Benchmark of `codistill view` on a cache of DUNE's size: 20.7 M rows of 19 datasets, three teachers of 576 x 1024.

    python -m benchmarks.view           # generates 2 GB of tables and a shard of rows, then measures for a minute
    python -m benchmarks.view --quick   # seconds; tests run it

Manifests, status and statistics are of the real size; of shards there are only the first of one dataset. Times are
those of a client on the same machine, over HTTP, the server just started: what is asked for first is read first.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tyro
from rich.console import Console
from rich.table import Table

import store
from benchmarks.machine import ROOT, describe
from benchmarks.store.rows import PIXELS, ArraySpec, specs
from benchmarks.store.scale_cache import SOURCE_PX, datasets_of_dune, make_cache
from store.cache.seal_record import Record
from store.format.manifest import SCHEMA
from store.format.schema import FAILED, OK, record_key

DISTRIBUTIONS = ("numpy", "pyarrow", "duckdb", "starlette", "uvicorn")
ROWS_WRITTEN, SHARD_ROWS = 64, 256
DISTINCT_ROWS, SHARED = 7, 64  # different tokens, and directions that they share
NOT_WRITTEN = "not written: the benchmark reads the first rows alone"
CLICKS = 20
SAMPLE = "/api/rows?limit=120&sample=500&seed=1"
SEVENS = "crop_width > 500 and path like '%77%'"
LISTS = {  # of all datasets at once
    "SQL condition": {"sql": SEVENS},
    "SQL condition, next page": {"sql": SEVENS, "offset": "120"},
    "condition as in data.subset": {"where": "crop_width > 500 and not flip"},
    "status failed in any array": {"status": "failed"},
    "sorted by a column": {"sort": "brightness", "order": "desc"},
    "sorted by a column, next page": {"sort": "brightness", "order": "desc", "offset": "120"},
    "sorted by a column, far down": {"sort": "brightness", "order": "desc", "offset": "1000000"},
    "sorted under a condition": {"sort": "brightness", "sql": SEVENS},
}
TARGETS = {"first paint": 1.0, "row page": 0.2, "clicked patch in three teachers": 0.05}


def main(
    folder: Path | None = None,
    out: Path = Path("benchmarks/results"),
    quick: bool = False,
    cache: Path | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Generate, measure, print and save `view.json`.

    Args:
        folder: folder to generate the cache in; None uses the folder of temporary files.
        out: folder of the results.
        quick: use a thousandth of four datasets.
        cache: cache that an earlier run generated and kept.
        keep: do not delete the cache.
    """
    work = Path(tempfile.mkdtemp(prefix="codistill-view-", dir=folder))
    report: dict[str, Any] = {"benchmark": "view", "quick": quick, "machine": describe(DISTRIBUTIONS)}
    try:
        location = cache or work / "cache"
        if cache is None:
            generate(location, quick=quick)
        report |= measure(location)
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "view.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))
    print_report(report, Console())
    return report


def generate(location: Path, *, quick: bool) -> None:
    """Make tables of the real size, and the first shard of the first dataset."""
    sizes = datasets_of_dune(share=1e-3)[::6] if quick else datasets_of_dune()
    make_cache(location, sizes, shard_rows=SHARD_ROWS, holes=False)
    opened = store.open(location)
    for dataset in opened:
        for array in (PIXELS, *dataset.teachers):
            _write_record(dataset, array)
    first = next(iter(opened))
    arrays = specs(small=False)
    for name, spec in arrays.items():
        _write_first_shard(first, name, spec)
    make_shards_of_lists(location)


def make_shards_of_lists(location: Path) -> None:
    """Make the shards that the first pages of lists name, without rows: a page reads their trailers, as in a cache."""
    opened = store.open(location)
    with _Server(location) as server:
        pages = [json.loads(server.get(path))["rows"] for path in (SAMPLE, *map(_list, LISTS.values()))]
    wanted = {(row["dataset"], row["row"] // SHARD_ROWS) for page in pages for row in page}
    for name, shard in sorted(wanted):
        dataset = opened[name]
        if (name, shard) == (opened.datasets[0], 0):
            continue
        rows = dataset.shard_rows_of(shard)
        with dataset.write_shard(PIXELS, shard, provenance={}) as writer:
            for _ in rows:
                writer.fail(NOT_WRITTEN)
            writer.finish(_manifest(name, rows, written=0))


def measure(location: Path) -> dict[str, Any]:
    """Start a server and ask for what a person's browser would; of what is done again and again take the median."""
    dataset = store.open(location).datasets[0]
    teachers = store.open(location)[dataset].teachers
    times: dict[str, Times] = {}
    begun = time.perf_counter()
    with _Server(location) as server:
        times["start until the address is printed"] = Times(time.perf_counter() - begun, server.cpu())
        times["first paint"] = server.time(["/", "/api/overview"])
        times["grid, first 120 rows"] = server.time(["/api/rows?limit=120"])
        thumbnails = [f"/img/pixels?dataset={dataset}&row={row}&size=192" for row in range(60)]
        times["grid, 60 thumbnails"] = server.time(thumbnails)
        times["grid, rows 10,000,000 on"] = server.time(["/api/rows?limit=120&offset=10000000"])
        times["random sample, 120 of 500 rows"] = server.time([SAMPLE])
        times["row page, the first"] = server.time(_row_page(dataset, 0, teachers))
        times["row page"] = server.time(*(_row_page(dataset, row, teachers) for row in range(1, 11)))
        click = f"/api/cosines?dataset={dataset}&row=0&array={teachers[0]}&patches="
        times["clicked patch in three teachers, the first"] = server.time([f"{click}300"])
        times["clicked patch in three teachers"] = server.time(*([f"{click}{patch}"] for patch in range(CLICKS)))
        beside = ",".join(f"{dataset}:{row}" for row in range(11, 15))
        times["the same with four rows beside, the first"] = server.time([f"{click}300&with={beside}"])
        times["the same with four rows beside"] = server.time(
            *([f"{click}{patch}&with={beside}"] for patch in range(CLICKS))
        )
        for name, query in LISTS.items():
            times[name] = server.time([_list(query)])
        memory = {name: server.memory(name) for name in ("VmHWM", "VmRSS")}
    rows = sum(dataset.rows for dataset in store.open(location))
    return {"rows": rows, "seconds": {name: one._asdict() for name, one in times.items()}, "memory_bytes": memory}


def _list(query: dict[str, str]) -> str:
    return f"/api/rows?{urllib.parse.urlencode({**query, 'limit': '120'})}"


def _row_page(dataset: str, row: int, teachers: Sequence[str]) -> list[str]:
    """Return what a page of one row asks for."""
    where = f"dataset={dataset}&row={row}"
    maps = [f"/api/map?{where}&array={teacher}&mode=pca&basis=row" for teacher in teachers]
    return [f"/api/row?{where}", f"/img/pixels?{where}", *maps]


class Times(NamedTuple):
    """Seconds until an answer is there, and of the server's processors; medians of several."""

    wall: float
    cpu: float


class _Server:
    """`codistill view` in a process of its own."""

    def __init__(self, location: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = [sys.executable, "-m", "codistill", "view", str(location), "--port", str(self._port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # the address
        self._clients = ThreadPoolExecutor(6)  # connections that a browser has open

    def __enter__(self) -> "_Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.shutdown()
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def time(self, *pages: Sequence[str]) -> Times:
        """Return the time until all addresses of a page are answered, asked for as a browser does."""
        walls, cpu = [], self.cpu()
        for paths in pages:
            begun = time.perf_counter()
            list(self._clients.map(self.get, paths))
            walls.append(time.perf_counter() - begun)
        return Times(float(np.median(walls)), (self.cpu() - cpu) / len(pages))

    def cpu(self) -> float:
        """Return the seconds that the server has used of its processors."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str) -> int:
        """Return a field of the server's memory, in bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)[field].split()[0]) * 1024

    def get(self, path: str) -> bytes:
        """Return what is answered to an address."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=300) as answer:
            return bytes(answer.read())


def _write_record(dataset: store.Dataset, array: str) -> None:
    """Write the record of the seal, which make_cache leaves out."""
    status = dataset.status(array)
    counts = {"ok": int((status == OK).sum()), "failed": int((status == FAILED).sum())}
    record = Record(
        fingerprints=np.zeros(dataset.shards, np.uint32),
        pixels_digests=np.zeros((dataset.shards, 32), np.uint8),
        counts=counts,
        reasons={"decode": counts["failed"]},
        tables={},
    )
    dataset.storage.replace(record_key(dataset.name, array), record.encode())


def _write_first_shard(dataset: store.Dataset, name: str, spec: ArraySpec) -> None:
    """Write shard 0 of an array: some rows of random values, the others failed."""
    generator = np.random.default_rng(0)
    rows = dataset.shard_rows_of(0)
    digest = None if name == PIXELS else dataset.read_trailer(PIXELS, 0).digest
    tokens = [] if name == PIXELS else [_tokens(spec, generator) for _ in range(DISTINCT_ROWS)]
    with dataset.write_shard(name, 0, provenance={}, pixels_digest=digest) as writer:
        for row in rows:
            if row >= ROWS_WRITTEN:
                writer.fail(NOT_WRITTEN)
            elif name == PIXELS:
                writer.append(generator.integers(0, 256, spec.shape, dtype=np.uint8))
            else:
                writer.append(tokens[row % DISTINCT_ROWS])
        writer.finish(_manifest(dataset.name, rows, written=ROWS_WRITTEN) if name == PIXELS else None)


def _tokens(spec: ArraySpec, generator: np.random.Generator) -> npt.NDArray[np.float16]:
    """Return tokens [N, C] that vary in some directions more than in others, as features do."""
    tokens, channels = spec.shape
    shared = generator.standard_normal((tokens, SHARED), np.float32) / np.arange(1, SHARED + 1, dtype=np.float32)
    values = 8 * shared @ generator.standard_normal((SHARED, channels), np.float32)
    return np.asarray(values + generator.standard_normal((tokens, channels), np.float32), np.float16)


def _manifest(dataset: str, rows: range, *, written: int) -> pa.Table:
    width, height = SOURCE_PX
    entries = []
    for row in rows:
        known = {"row": row, "dataset": dataset, "image_index": row, "path": f"folder/{row:09d}.jpg", "view": 0}
        crop = {"crop_top": 0, "crop_left": 0, "crop_height": 336, "crop_width": 336, "rotate_deg": 0}
        found = {"source_width": width, "source_height": height, "status": OK, **crop}
        entries.append(known | (found if row < written else {"status": FAILED, "error": NOT_WRITTEN}))
    return pa.table({name: [entry.get(name) for entry in entries] for name in SCHEMA.names}, schema=SCHEMA)


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table("", "ms", "ms of processors", "target", title=f"codistill view, {report['rows']:,} rows")
    for name, seconds in report["seconds"].items():
        target = TARGETS.get(name)
        shown = (f"{1000 * seconds[kind]:,.0f}" for kind in ("wall", "cpu"))
        table.add_row(name, *shown, "" if target is None else f"< {1000 * target:,.0f}")
    console.print(table)
    peak, now = (report["memory_bytes"][name] / 1e6 for name in ("VmHWM", "VmRSS"))
    console.print(f"memory of the server: {now:,.0f} MB, at most {peak:,.0f} MB")


if __name__ == "__main__":
    tyro.cli(main)
