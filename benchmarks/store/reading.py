"""Measurement of reading: every reader in turn, again and again, so that all share the same conditions."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.page_cache import drop, files_below, resident_share, warm
from benchmarks.store.peers import Order, Reader, RowNumbers
from benchmarks.store.rows import Buffers, Rows

PageCache = Literal["warm", "cold"]
COLD_SHARE = 0.02  # of a file may be left in the page cache when it was dropped
Key = tuple[str, Order, PageCache]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Rows to read, and where.

    Attributes:
        rows: rows that are stored in every format.
        folders: folders by format.
        out: buffers that all readers read into.
        batch: rows read at a time.
        limits: names of the readers that are the limit; the faster one of a repetition counts.
    """

    rows: Rows
    folders: Mapping[str, Path]
    out: Buffers
    batch: int
    limits: Sequence[str]


def measure_reading(
    reading: Reading, readers: Sequence[Reader], repetitions: Mapping[PageCache, int]
) -> list[dict[str, Any]]:
    """Time every reader in both orders, warm and cold; return one record for each.

    The rows read are compared with those written.
    """
    seconds: dict[Key, list[float]] = defaultdict(list)
    processor: dict[Key, list[float]] = defaultdict(list)
    shares: dict[Key, list[float]] = defaultdict(list)
    for page_cache in get_args(PageCache):
        for repetition in range(repetitions[page_cache]):
            for order in get_args(Order):
                batches = plan(reading.rows.count, reading.batch, order=order, seed=repetition)
                for reader in readers:
                    key = (reader.name, order, page_cache)
                    shares[key].append(_prepare(reading.folders[reader.format], page_cache))
                    took, used = _time(reading, reader, batches, order=order, page_cache=page_cache)
                    seconds[key].append(took)
                    processor[key].append(used)
    size = len(batches) * reading.batch * reading.rows.row_bytes
    return [
        {
            "reader": reader.name,
            "how": reader.how,
            "order": order,
            "page_cache": page_cache,
            "resident_before": float(np.median(shares[reader.name, order, page_cache])),
            **_summary(seconds, (reader.name, order, page_cache), size=size, limits=reading.limits),
            "processor_ratio_to_raw": _ratio(processor, (reader.name, order, page_cache), reading.limits),
        }
        for page_cache in get_args(PageCache)
        for order in get_args(Order)
        for reader in readers
    ]


def plan(count: int, batch: int, *, order: Order, seed: int) -> list[RowNumbers]:
    """Return the rows of each batch: all full batches of one pass, no row twice."""
    rows = np.arange(count) if order == "sequential" else np.random.default_rng(seed).permutation(count)
    return [rows[start : start + batch] for start in range(0, count - batch + 1, batch)]


def _prepare(folder: Path, page_cache: PageCache) -> float:
    files = files_below(folder)
    if page_cache == "warm":
        warm(files)
    else:
        drop(files)
    share = resident_share(files)
    if page_cache == "cold" and share > COLD_SHARE:
        raise RuntimeError(f"{share:.0%} of '{folder}' stayed in the page cache: another process has it mapped")
    return share


def _time(
    reading: Reading, reader: Reader, batches: Sequence[RowNumbers], *, order: Order, page_cache: PageCache
) -> tuple[float, float]:
    """Return the seconds of one pass, and those of all processors together."""
    with _open(reader, reading, order):
        if page_cache == "warm":
            reader.read(batches[-1])  # work that is done once: status, plans, threads
        begun, used = time.perf_counter(), time.process_time()
        for batch in batches:
            delivered = reader.read(batch)
        took, used = time.perf_counter() - begun, time.process_time() - used
        reading.rows.check(delivered, reading.out)
    return took, used


@contextmanager
def _open(reader: Reader, reading: Reading, order: Order) -> Iterator[None]:
    reader.open(reading.folders[reader.format], reading.rows, reading.out, order)
    try:
        yield
    finally:
        reader.close()


def _summary(seconds: Mapping[Key, list[float]], key: Key, *, size: int, limits: Sequence[str]) -> dict[str, Any]:
    """Return speed and ratio to the limit."""
    took = np.array(seconds[key])
    return {
        "bytes": size,
        "seconds": took.tolist(),
        "gb_per_s": float(np.median(size / took) / 1e9),
        "ratio_to_raw": _ratio(seconds, key, limits),
    }


def _ratio(seconds: Mapping[Key, list[float]], key: Key, limits: Sequence[str]) -> float:
    """Return the speed over that of the limit: the ratio is taken within each repetition, then its median."""
    limit = np.min([seconds[name, key[1], key[2]] for name in limits], axis=0)
    return float(np.median(limit / np.array(seconds[key])))
