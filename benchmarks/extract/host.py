"""What the features stage can carry without a GPU: reading, checking, summing and writing beside any teacher.

    python -m benchmarks.extract_host                       # as fast as it goes, then beside 250 and 500 rows/s
    python -m benchmarks.extract_host --rates 950           # a ViT-L at 336 px in float16 on an H100

The teacher is a clock: it takes the time of a batch without using the processor, as a GPU does, and hands out ready
tokens of the real shape (577 x 1024), copied as they would be from the device. So this says what is left for the host,
and how near the stage comes to the teacher's own time; `benchmarks.extract` measures real teachers.
"""

import json
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import store
from benchmarks.machine import describe
from benchmarks.store.peers_zarr import DATASET, CacheWriter
from benchmarks.store.rows import PIXELS, Rows, specs
from extract.job import stages
from extract.teachers.runner import BATCHES_ON_DEVICE, TeacherRunner
from store.common.threads import ordered_map
from store.format import kernels

TEACHER = "dinov2"
UNHURRIED = 1e9  # rows/s of a teacher that costs nothing


def main(
    rows: int = 4096,
    rates: tuple[float, ...] = (UNHURRIED, 250.0, 500.0),
    shards_under_way: int = 4,
    batch_size: int = 64,
    shard_rows: int = 256,
    quick: bool = False,
    folder: Path | None = None,
    out: Path = Path("benchmarks/results/extract_host.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        rows: of tokens written at each rate.
        rates: rows per second of the teacher.
        shards_under_way: at a time.
        batch_size: of the teacher.
        shard_rows: rows of a shard.
        quick: tiny rows; tests run it.
        folder: on the disk to measure; None uses the folder of temporary files.
        out: JSON to write.
    """
    work = Path(tempfile.mkdtemp(prefix="codistill-host-", dir=folder))
    try:
        dataset = make_pixels(work / "cache", rows=rows, shard_rows=shard_rows, small=quick)
        measured = [
            measure(dataset, rate=rate, shards_under_way=shards_under_way, batch_size=batch_size) for rate in rates
        ]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report = {
        "benchmark": "extract_host",
        "machine": describe(("numpy", "numba", "torch")),
        "rows": rows,
        "shards_under_way": shards_under_way,
        "batch_size": batch_size,
        "measured": measured,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print_report(report, Console())
    return report


def make_pixels(folder: Path, *, rows: int, shard_rows: int, small: bool) -> store.Dataset:
    """A cache with stored pixels, and a teacher without tokens."""
    kept = {name: spec for name, spec in specs(small=small).items() if name in (PIXELS, TEACHER)}
    content = Rows(count=rows, shard_rows=shard_rows, arrays=kept)
    writer = CacheWriter()
    writer.prepare(folder, content)
    writer.write(folder, content.only(PIXELS, count=rows))
    return store.open(folder)[DATASET]


class PacedRunner(TeacherRunner):
    """A lane whose teacher is a clock: batches follow each other on it, as many at a time as a lane lets onto a GPU."""

    def __init__(self, dataset: store.Dataset, *, rate: float, batch_size: int) -> None:
        self.name = TEACHER
        self.provenance = {}
        self._rate = rate
        self._turn, self._places = threading.Lock(), threading.BoundedSemaphore(BATCHES_ON_DEVICE)
        self._free_at = 0.0
        shape = dataset.array(TEACHER).row_shape
        self._ready = np.random.default_rng(0).standard_normal((batch_size, *shape)).astype(np.float16)

    def tokens(self, pixels: np.ndarray) -> list[np.ndarray | str]:
        """Ready tokens of a batch (B, H, W, 3), after the time that it takes."""
        with self._places:
            with self._turn:
                self._free_at = done = max(self._free_at, time.perf_counter()) + len(pixels) / self._rate
            while (left := done - time.perf_counter()) > 0:
                time.sleep(left)
        return list(self._ready[: len(pixels)].copy())


def measure(dataset: store.Dataset, *, rate: float, shards_under_way: int, batch_size: int) -> dict[str, float]:
    """Write all tokens, timed, and delete them."""
    lane = PacedRunner(dataset, rate=rate, batch_size=batch_size)
    kernels.compiled()
    node = dataset.array(TEACHER)
    begun, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(shards_under_way) as pool:
        made = ordered_map(
            pool,
            lambda shard: stages.features_shard(dataset, shard, lane=lane, batch_size=batch_size),
            range(dataset.shards),
            ahead=shards_under_way,
        )
        stored_bytes = sum(report.stored_bytes for report in made)
    wall_s, processor_s = time.perf_counter() - begun, time.process_time() - used
    for shard in range(dataset.shards):
        dataset.storage.delete(node.shard_key(shard))
    return {
        "rate": rate,
        "rows_per_second": dataset.rows / wall_s,
        "gb_per_second": stored_bytes / wall_s / 1e9,
        "wall_over_teacher": wall_s * rate / dataset.rows,
        "processors": processor_s / wall_s,
    }


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(
        "teacher, rows/s", "stage, rows/s", "GB/s written", "wall over the teacher's", "processors used",
        title=f"features stage, {report['rows']} rows, {report['shards_under_way']} shards under way",
    )  # fmt: skip
    for found in report["measured"]:
        hurried = found["rate"] < UNHURRIED
        table.add_row(
            f"{found['rate']:.0f}" if hurried else "no time at all",
            f"{found['rows_per_second']:.0f}",
            f"{found['gb_per_second']:.2f}",
            f"{found['wall_over_teacher']:.3f}" if hurried else "",
            f"{found['processors']:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
