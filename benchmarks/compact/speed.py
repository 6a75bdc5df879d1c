"""Speed of codes: reading raw rows against `preadv`, decoding against its matrix products, encoding a thread.

    python -m benchmarks.compact.speed            # three ViT-L teachers at 336 px and 16x: 0.5 GB of disk
    python -m benchmarks.compact.speed --quick    # seconds; tests run it

Data is synthetic: random bytes to read and decode, Gaussian tokens with a spectrum of 1/i to encode. Repetitions are
interleaved, ratios taken within a repetition, medians reported. Reading is timed by the clock and by the time of
all processors, which other work on the machine disturbs less; what one thread decodes and encodes by the latter alone.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import store
from benchmarks.compact.synthetic import CodesReader, CodesWriter, make_code, teachers, tokens_like
from benchmarks.machine import describe
from benchmarks.store.peers import RawReader
from benchmarks.store.peers_zarr import CacheWriter
from benchmarks.store.reading import PageCache, Reading, measure_reading
from benchmarks.store.rows import ArraySpec
from store.format.code import Code
from store.format.code_encode import Encoder
from store.format.code_signs import sign_number
from store.format.distortion import KINDS

RATIOS = (4.0, 8.0, 16.0)  # the last one is read and decoded
QUICK_RATIOS = (4.0, 8.0)
MB = 1e6
AIMS = {
    "read raw, random, warm": "0.8 of preadv; 10,000 rows/s of three teachers",
    "decode": "1.3 of its products",
    "encode at 16x": "25 MB/s a thread",
}


def main(
    rows: int = 512,
    batch: int = 64,
    repetitions: int = 7,
    cold_repetitions: int = 2,
    folder: Path | None = None,
    out: Path = Path("benchmarks/results"),
    quick: bool = False,
) -> dict[str, Any]:
    """Measure, print and save.

    Args:
        rows: rows of three teachers to read.
        batch: rows read at a time.
        repetitions: repetitions of each measurement, warm.
        cold_repetitions: repetitions of reading with a cold page cache.
        folder: folder on the disk to measure; None uses the folder of temporary files.
        out: folder of the results.
        quick: use tiny rows and few repetitions.
    """
    if quick:
        rows, batch, repetitions, cold_repetitions = 40, 8, 2, 1
    ratios = QUICK_RATIOS if quick else RATIOS
    tokens = teachers(small=quick)
    one = tokens["dinov2"]
    report = {
        "benchmark": "compact",
        "quick": quick,
        "machine": describe(["numpy", "numba", "codistill"]),
        "reading": read(
            CodesWriter(tokens, ratio=ratios[-1]),
            folder,
            rows=rows,
            shard_rows=16 if quick else 256,
            batch=batch,
            repetitions={"warm": repetitions, "cold": cold_repetitions},
        ),
        "decoding": decode(one, ratios[-1], repetitions=repetitions),
        "encoding": [encode(one, ratio, repetitions=repetitions) for ratio in ratios],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "compact_speed.json").write_text(json.dumps(report, indent=2) + "\n")
    show(report, Console())
    return report


def read(
    writer: CodesWriter,
    folder: Path | None,
    *,
    rows: int,
    shard_rows: int,
    batch: int,
    repetitions: Mapping[PageCache, int],
) -> dict[str, Any]:
    """Time raw reads of all teachers, with and without checksums, against `preadv` of the same bytes."""
    work = Path(tempfile.mkdtemp(prefix="codistill-benchmark-", dir=folder))
    try:
        content = writer.rows(rows, shard_rows=shard_rows)
        writer.prepare(work / "codes", content)
        writer.write(work / "codes", content)
        store.seal(work / "codes")
        limits = [RawReader(1), RawReader(4)]
        reading = Reading(
            rows=content,
            folders={CacheWriter.name: work / "codes"},
            out=content.buffers(batch),
            batch=batch,
            limits=[reader.name for reader in limits],
        )
        readers = [*limits, CodesReader(verify=False), CodesReader(verify=True)]
        records = measure_reading(reading, readers, repetitions)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    row_bytes = content.row_bytes
    rates = [{**record, "rows_per_s": record["gb_per_s"] * 1e9 / row_bytes} for record in records]
    return {"rows": rows, "batch": batch, "row_bytes": row_bytes, "readers": rates}


def decode(spec: ArraySpec, ratio: float, *, repetitions: int, rows: int = 8) -> dict[str, Any]:
    """Time decoding to float16 against its matrix products alone, with one thread and with all."""
    code = make_code(spec, ratio=ratio)
    codes = np.random.default_rng(0).integers(0, 256, (rows, code.row_bytes), np.uint8)
    codes[:] = np.where(_scale_bytes(code), 128, codes)  # scales of 1
    numbers, out = np.arange(rows), np.empty((rows, code.tokens, code.channels), np.float16)
    products = products_of(code)

    def products_alone() -> None:
        for _ in range(rows):
            products()

    result: dict[str, Any] = {"rows": rows, "ratio": ratio, "groups": code.spec.groups["patch"]}
    for name, threads, clock in (("one thread", 1, time.process_time), ("all threads", None, time.perf_counter)):
        with threadpool_limits(threads):
            took = alternately([products_alone, lambda: code.decode(codes, numbers, out)], repetitions, clock=clock)
        result[name] = {
            "ratio_to_products": float(np.median(took[1] / took[0])),
            "mb_per_s": float(out.nbytes / MB / np.median(took[1])),
        }
    return result


def products_of(code: Code) -> Callable[[], None]:
    """Return a function that makes the matrix products of decoding one row, and nothing else."""
    counts = (code.prefix_tokens, code.tokens - code.prefix_tokens)
    steps = []
    for kind, count in enumerate(counts):
        values = np.ones((count, code.channels), np.float32)
        turned, tokens = np.empty_like(values), np.empty_like(values)
        ends = np.cumsum([0, *(n for _, n in code.spec.groups[KINDS[kind]])]).tolist()
        slices = [slice(first, last) for first, last in pairwise(ends)]
        blocks = [np.ascontiguousarray(code.rotation[kind, part, part]) for part in slices]
        inputs = [np.ascontiguousarray(values[:, part]) for part in slices]
        steps.append((list(zip(inputs, blocks, slices, strict=True)), turned, tokens, code.decoder[kind]))

    def run() -> None:
        for groups, turned, tokens, decoder in steps:
            for values, block, part in groups:
                np.matmul(values, block, out=turned[:, part])
            np.matmul(turned, decoder, out=tokens)

    return run


def encode(spec: ArraySpec, ratio: float, *, repetitions: int, rows: int = 2) -> dict[str, Any]:
    """Time encoding of tokens in one thread, after what is done once a process: codes, and codes with their distortion.

    The distortion of a row is exact, so it takes the products of decoding too. Beside it stands the time of the
    matrix products alone, which are as many for encoding as for decoding.
    """
    code = make_code(spec, ratio=ratio)
    encoder, tokens, numbers = Encoder(code), tokens_like(spec, code, rows=rows), np.arange(rows)
    codes, products = np.empty((rows, code.row_bytes), np.uint8), products_of(code)

    def codes_alone() -> None:
        for row, number in enumerate(sign_number(numbers).tolist()):
            standardised = code.standardised(tokens[row])
            parts = (standardised[: code.prefix_tokens], standardised[code.prefix_tokens :])
            for kind, records in code.records(codes[row]):
                encoder.encode_standardised(parts[kind], kind, number, records)

    def products_alone() -> None:
        for _ in range(2 * rows):
            products()

    with threadpool_limits(1):
        while_compiling = time.perf_counter() + 20  # searches are compiled once they have had some work
        for _ in range(20):
            encoder.encode(tokens, numbers)
            if time.perf_counter() > while_compiling:
                break
        ways = {
            "mb_per_s": lambda: encoder.encode(tokens, numbers),
            "codes_alone_mb_per_s": codes_alone,
            "products_alone_mb_per_s": products_alone,
        }
        took = alternately(list(ways.values()), repetitions, clock=time.process_time)
    rates = {name: float(tokens.nbytes / MB / np.median(seconds)) for name, seconds in zip(ways, took, strict=True)}
    return {"ratio": ratio, "groups": code.spec.groups["patch"], **rates}


def alternately(
    functions: Sequence[Callable[[], Any]], repetitions: int, *, clock: Callable[[], float]
) -> "list[np.ndarray[Any, Any]]":
    """Return the seconds by `clock` of each function's calls, which take turns; the first round is not counted."""
    took: list[list[float]] = [[] for _ in functions]
    for repetition in range(repetitions + 1):
        for place, function in enumerate(functions):
            begun = clock()
            function()
            if repetition:
                took[place].append(clock() - begun)
    return [np.array(seconds) for seconds in took]


def show(report: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    reading = report["reading"]
    title = f"{reading['rows']} rows of {reading['row_bytes'] / 1e3:.0f} kB, {reading['batch']} a batch"
    table = Table("reader", "order, page cache", "GB/s", "x preadv", "by processors", "rows/s", title=title)
    for record in reading["readers"]:
        ratios = [f"{record[name]:.2f}" for name in ("ratio_to_raw", "processor_ratio_to_raw")]
        cells = [f"{record['gb_per_s']:.2f}", *ratios, f"{record['rows_per_s']:,.0f}"]
        table.add_row(record["reader"], f"{record['order']}, {record['page_cache']}", *cells)
    console.print(table)
    decoding = report["decoding"]
    for threads in ("one thread", "all threads"):
        figures = decoding[threads]
        console.print(
            f"decode at {decoding['ratio']:g}x, {threads}: {figures['ratio_to_products']:.2f} x its products, "
            f"{figures['mb_per_s']:.0f} MB/s of float16"
        )
    for record in report["encoding"]:
        console.print(
            f"encode at {record['ratio']:g}x, one thread, MB/s of float16: {record['codes_alone_mb_per_s']:.1f}, with "
            f"their distortion {record['mb_per_s']:.1f}, products of both alone {record['products_alone_mb_per_s']:.1f}"
        )
    for name, aim in AIMS.items():
        console.print(f"aim, {name}: {aim}")


def _scale_bytes(code: Code) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return which bytes of a row are scales."""
    row = np.zeros(code.row_bytes, np.uint8)
    for kind, records in code.records(row):
        records[:, : len(code.spec.groups[KINDS[kind]])] = 1
    return row.astype(np.bool_)


if __name__ == "__main__":
    tyro.cli(main)
