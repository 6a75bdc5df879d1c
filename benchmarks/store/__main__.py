"""The store against the disk and against its peers, in one run.

    python -m benchmarks.store                    # 2 GB of rows of the real shapes, every format: 16 GB of disk
    python -m benchmarks.store --quick            # seconds; tests run it
    python -m benchmarks.store --only codistill   # ours against raw

Reading: batches of rows (uint8 336 x 336 x 3 and float16 577 x 1024, 576 x 1024 twice) into the same buffers, random
and sequential, page cache warm and cold. Raw `preadv` of the same rows is the limit. Writing: one array at a time,
durable, against a sequential write + fsync. Repetitions are interleaved, ratios taken within a repetition; medians are
reported.
Writes `store.json` and draws `store.png` in the folder of results.
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
from benchmarks.store.report import draw, print_report
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
    """Everything that reads, the limits first."""
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
    """Everything that writes, the limit first."""
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
        rows: to store; overrides `gigabytes`.
        gigabytes: of rows to store, in each format.
        folder: on the disk to measure, some 16 GB; None uses the folder of temporary files. What is written is deleted.
        out: folder of the results.
        quick: tiny rows, one repetition.
        repetitions: of warm reading and of writing.
        cold_repetitions: of cold reading.
        batch: rows read at a time.
        reads: random rows to read while watching memory.
        only: names (or their beginnings) of what to measure beside the limits; all by default.
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
    draw(report, out / "store.png")
    print_report(report, console)
    return report


def chosen(peers: Sequence[Peer], only: tuple[str, ...]) -> tuple[list[Peer], dict[str, list[str]]]:
    """Return the peers that can and shall be run, and of the others the modules that they lack."""
    limits = (RawReader, SequentialFiles)
    wanted = [peer for peer in peers if not only or isinstance(peer, limits) or peer.name.startswith(only)]
    absent = {peer.name: missing_modules(peer.modules) for peer in wanted}
    return [peer for peer in wanted if not absent[peer.name]], {name: lacks for name, lacks in absent.items() if lacks}


def _writing(content: Rows, chosen: Sequence[Writer], work: Path, *, repetitions: int) -> list[dict[str, Any]]:
    """Write about as many bytes of pixels as of tokens."""
    tokens = content.only(TOKENS, count=content.count)
    pixels = content.only(PIXELS, count=tokens.row_bytes * tokens.count // content.arrays[PIXELS].row_bytes)
    found = []
    for rows in (pixels, tokens):
        found += measure_writing(rows, chosen, work / "writing", repetitions=repetitions)
    return found


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
