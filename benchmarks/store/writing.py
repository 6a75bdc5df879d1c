"""Measurement of writing: rows of one array, durably, against a sequential write + fsync of the same bytes."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page_cache import bytes_of, files_below
from benchmarks.store.peers import Writer
from benchmarks.store.rows import Rows


def measure_writing(rows: Rows, writers: Sequence[Writer], folder: Path, *, repetitions: int) -> list[dict[str, Any]]:
    """Time every writer; the first one is the limit.

    Args:
        rows: rows of a single array.
        writers: writers to time in turn, again and again.
        folder: folder to write to; the files are deleted.
        repetitions: repetitions of each writer.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for name in rows.names:
        rows.row(name, 0)  # the values are made here, not while a clock runs
    for _ in range(repetitions):
        for writer in writers:
            target = folder / "written"
            writer.prepare(target, rows)
            os.sync()  # so that nothing else is being written
            begun = time.perf_counter()
            writer.write(target, rows)
            seconds[writer.name].append(time.perf_counter() - begun)
            sizes[writer.name] = bytes_of(files_below(target))
            shutil.rmtree(target)
    limit = np.array(seconds[writers[0].name])
    size = rows.count * rows.row_bytes
    return [
        {
            "writer": writer.name,
            "array": rows.names[0],
            "rows": rows.count,
            "bytes": size,
            "stored_bytes": sizes[writer.name],
            "seconds": seconds[writer.name],
            "gb_per_s": float(np.median(size / np.array(seconds[writer.name])) / 1e9),
            "ratio_to_raw": float(np.median(limit / np.array(seconds[writer.name]))),
        }
        for writer in writers
    ]
