"""Writing: rows of one array at a time, durably, against a sequential write + fsync of the same bytes."""

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
        rows: of a single array.
        writers: in turn, again and again.
        folder: where to write; what is written is deleted.
        repetitions: of each.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for name in rows.names:
        rows.row(name, 0)  # made here, not while a clock runs
    for _ in range(repetitions):
        for writer in writers:
            target = folder / "written"
            writer.prepare(target, rows)
            os.sync()  # nothing of others' is left to write
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
