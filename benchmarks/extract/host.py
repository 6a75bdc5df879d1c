"""The host's work in the features stage, without a GPU: reading, checking, checksums and writing beside any teacher.

    python -m benchmarks.extract.host                       # as fast as it goes, then beside 250 and 500 rows/s
    python -m benchmarks.extract.host --rates 950           # a ViT-L at 336 px in float16 on an H100

The teacher is a clock: it takes the time of a batch without using the CPU, as a GPU does, and returns prepared tokens
of the real shape (577 x 1024), copied as they would be from the device. The result is the time that the host needs, and
how close the stage comes to the teacher's own time; `benchmarks.extract` measures real teachers.
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
from extract.teachers.batching import Batching
from extract.teachers.runner import BATCHES_ON_DEVICE, TeacherRunner
from store.common.threads import ordered_map
from store.format import kernels

TEACHER = "dinov2"
UNLIMITED = 1e9  # rows/s of a teacher that takes no time


def main(
    rows: int = 4096,
    rates: tuple[float, ...] = (UNLIMITED, 250.0, 500.0),
    shards_under_way: int = 4,
    batch_size: int = 64,
    shard_rows: int = 256,
    quick: bool = False,
    folder: Path | None = None,
    out: Path = Path("benchmarks/results/extract_host.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        rows: number of rows of tokens written at each rate.
        rates: rows per second of the teacher.
        shards_under_way: number of shards made at a time.
        batch_size: rows that go through the teacher together.
        shard_rows: rows of a shard.
        quick: use tiny rows; for tests.
        folder: folder on the disk to measure; None uses the folder of temporary files.
        out: JSON file to write.
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
    """Create a cache with stored pixels, and a teacher without tokens."""
    arrays = {name: spec for name, spec in specs(small=small).items() if name in (PIXELS, TEACHER)}
    content = Rows(count=rows, shard_rows=shard_rows, arrays=arrays)
    writer = CacheWriter()
    writer.prepare(folder, content)
    writer.write(folder, content.only(PIXELS, count=rows))
    return store.open(folder)[DATASET]


class PacedRunner(TeacherRunner):
    """Runner whose teacher is a clock: batches follow each other, as many at a time as a runner allows on a GPU."""

    def __init__(self, dataset: store.Dataset, *, rate: float, batch_size: int) -> None:
        self.name = TEACHER
        self.provenance = {}
        self._rate = rate
        self._clock_lock, self._device_slots = threading.Lock(), threading.BoundedSemaphore(BATCHES_ON_DEVICE)
        self._free_at = 0.0
        shape = dataset.array(TEACHER).row_shape
        self._prepared = np.random.default_rng(0).standard_normal((batch_size, *shape)).astype(np.float16)

    def tokens(self, pixels: np.ndarray) -> list[np.ndarray | str]:
        """Return prepared tokens of a batch (B, H, W, 3), after the time that the teacher takes."""
        with self._device_slots:
            with self._clock_lock:
                self._free_at = done = max(self._free_at, time.perf_counter()) + len(pixels) / self._rate
            while (left := done - time.perf_counter()) > 0:
                time.sleep(left)
        return list(self._prepared[: len(pixels)].copy())


def measure(dataset: store.Dataset, *, rate: float, shards_under_way: int, batch_size: int) -> dict[str, float]:
    """Time the writing of all tokens, and delete them."""
    runner = PacedRunner(dataset, rate=rate, batch_size=batch_size)
    kernels.compiled()
    node = dataset.array(TEACHER)
    begun, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(shards_under_way) as pool:
        reports = ordered_map(
            pool,
            lambda shard: stages.features_shard(dataset, shard, runner=runner, batching=Batching(size=batch_size)),
            range(dataset.shards),
            ahead=shards_under_way,
        )
        stored_bytes = sum(report.stored_bytes for report in reports)
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
    for measured in report["measured"]:
        limited = measured["rate"] < UNLIMITED
        table.add_row(
            f"{measured['rate']:.0f}" if limited else "no time at all",
            f"{measured['rows_per_second']:.0f}",
            f"{measured['gb_per_second']:.2f}",
            f"{measured['wall_over_teacher']:.3f}" if limited else "",
            f"{measured['processors']:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
