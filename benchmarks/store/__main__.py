"""Benchmark of the store: reading and writing against the disk and against other formats.

    python -m benchmarks.store                    # 2 GB of rows of the real shapes, every format: 16 GB of disk
    python -m benchmarks.store --quick            # seconds; tests run it
    python -m benchmarks.store --only codistill   # codistill against raw reads and writes

Reading: batches of rows (uint8 336 x 336 x 3 and float16 577 x 1024, 576 x 1024 twice) into the same buffers, random
and sequential, page cache warm and cold. Raw `preadv` of the same rows is the limit. Writing: one array at a time,
durable, against a sequential write + fsync. Repetitions are interleaved, ratios taken within a repetition; medians are
reported.
Writes `store.json` and plots `store.png` in the folder of results.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

import store
from benchmarks.machine import describe, in_own_process
from benchmarks.store.peers import RawReader, Reader, SequentialFiles, Writer, missing_modules
from benchmarks.store.peers_files import Hdf5Reader, Hdf5Writer, LmdbReader, LmdbWriter, NpyReader, NpyWriter
from benchmarks.store.peers_samples import LanceReader, LanceWriter, TarReader, TarWriter
from benchmarks.store.peers_zarr import CacheReader, CacheWriter, SlotsWriter, TensorStoreReader, ZarrReader, ZarrWriter
from benchmarks.store.reading import PageCache, Reading, measure_reading
from benchmarks.store.report import plot_speeds, print_report
from benchmarks.store.rows import PIXELS, Rows, specs
from benchmarks.store.writing import measure_writing

DISTRIBUTIONS = (
    *("numpy", "zarr", "zarrs", "tensorstore", "h5py", "lmdb", "webdataset", "safetensors", "pylance", "pyarrow"),
    "crc32c",
)
Peer = TypeVar("Peer", Reader, Writer)
TOKENS = "dinov2"
QUICK_ROWS = 40


def readers() -> list[Reader]:
    """Return all readers, the limits first."""
    return [
        RawReader(1),
        RawReader(4),
        CacheReader(verify=False),
        CacheReader(verify=True),
        ZarrReader(),
        ZarrReader(pipeline="zarrs.ZarrsCodecPipeline"),
        TensorStoreReader(),
        Hdf5Reader(),
        LmdbReader(),
        NpyReader(),
        TarReader(),
        LanceReader(),
    ]


def writers() -> list[Writer]:
    """Return all writers, the limit first."""
    return [
        SequentialFiles(),
        CacheWriter(),
        SlotsWriter(),
        ZarrWriter(),
        Hdf5Writer(),
        LmdbWriter(),
        NpyWriter(),
        TarWriter(),
        LanceWriter(),
    ]


def main(
    rows: int | None = None,
    gigabytes: float = 2.0,
    folder: Path | None = None,
    out: Path = Path("benchmarks/results"),
    quick: bool = False,
    repetitions: int = 5,
    cold_repetitions: int = 3,
    batch: int = 32,
    reads: int = 100_000,
    only: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure, print and save.

    Args:
        rows: number of rows to store; overrides `gigabytes`.
        gigabytes: size of the rows to store, in each format.
        folder: folder on the disk to measure, with some 16 GB free; None uses the folder of temporary files. All files
            are deleted at the end.
        out: folder of the results.
        quick: use tiny rows and one repetition.
        repetitions: repetitions of warm reading and of writing.
        cold_repetitions: repetitions of cold reading.
        batch: rows read at a time.
        reads: random rows to read while the memory is observed.
        only: names of readers and writers, or their beginnings, to measure beside the limits; all if empty.
    """
    arrays = specs(small=quick)
    row_bytes = sum(spec.row_bytes for spec in arrays.values())
    if quick:
        rows, repetitions, cold_repetitions, batch, reads = rows or QUICK_ROWS, 1, 1, 8, min(reads, 640)
    content = Rows(count=rows or int(gigabytes * 1e9 / row_bytes) + 1, shard_rows=16 if quick else 256, arrays=arrays)
    chosen_readers, absent = chosen(readers(), only)
    chosen_writers, absent_writers = chosen(writers(), only)
    work = Path(tempfile.mkdtemp(prefix="codistill-benchmark-", dir=folder))
    console = Console()
    report: dict[str, Any] = {
        "benchmark": "store",
        "quick": quick,
        "machine": describe(DISTRIBUTIONS),
        "rows": content.count,
        "row_bytes": row_bytes,
        "batch": batch,
        "not_run": absent | absent_writers,
    }
    try:
        report["writing"] = _writing(content, chosen_writers, work, repetitions=repetitions)
        console.print("written; reading")
        folders = _build(content, {reader.format for reader in chosen_readers}, work)
        reading = Reading(
            rows=content,
            folders=folders,
            out=content.buffers(batch),
            batch=batch,
            limits=[reader.name for reader in chosen_readers if isinstance(reader, RawReader)],
        )
        counts: dict[PageCache, int] = {"warm": repetitions, "cold": cold_repetitions}
        report["reading"] = measure_reading(reading, chosen_readers, counts)
        arguments = ("--array", TOKENS, "--reads", str(reads), "--batch", str(batch))
        report["memory"] = in_own_process("benchmarks.store.memory", str(folders[CacheWriter.name]), *arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "store.json").write_text(json.dumps(report) + "\n")
    plot_speeds(report, out / "store.png")
    print_report(report, console)
    return report


def chosen(peers: Sequence[Peer], only: tuple[str, ...]) -> tuple[list[Peer], dict[str, list[str]]]:
    """Return the peers to run, and the missing modules of those that cannot be run."""
    limits = (RawReader, SequentialFiles)
    wanted = [peer for peer in peers if not only or isinstance(peer, limits) or peer.name.startswith(only)]
    absent = {peer.name: missing_modules(peer.modules) for peer in wanted}
    return [peer for peer in wanted if not absent[peer.name]], {name: lacks for name, lacks in absent.items() if lacks}


def _writing(content: Rows, chosen: Sequence[Writer], work: Path, *, repetitions: int) -> list[dict[str, Any]]:
    """Write about as many bytes of pixels as of tokens."""
    tokens = content.only(TOKENS, count=content.count)
    pixels = content.only(PIXELS, count=tokens.row_bytes * tokens.count // content.arrays[PIXELS].row_bytes)
    records = []
    for rows in (pixels, tokens):
        records += measure_writing(rows, chosen, work / "writing", repetitions=repetitions)
    return records


def _build(content: Rows, formats: set[str], work: Path) -> Mapping[str, Path]:
    folders = {}
    for writer in writers():
        if writer.name in formats:
            folders[writer.name] = work / writer.name
            writer.prepare(folders[writer.name], content)
            writer.write(folders[writer.name], content)
    store.seal(folders[CacheWriter.name])
    return folders


if __name__ == "__main__":
    tyro.cli(main)
