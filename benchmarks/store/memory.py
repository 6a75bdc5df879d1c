"""Benchmark of memory: a process of its own reads random rows again and again.

python -m benchmarks.store.memory CACHE --reads 100000
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import store
from benchmarks.machine import own_memory
from store.format.schema import OK, PIXELS

SAMPLES = 20


def read_at_random(cache: Path, *, array: str, reads: int, batch: int, verify: bool) -> dict[str, Any]:
    """Read random rows of one array and note the resident memory at equal distances, first after a warm-up.

    Args:
        cache: location of the cache.
        array: `pixels` or a teacher.
        reads: number of rows to read in all.
        batch: rows read at a time.
        verify: check checksums.

    Returns:
        `resident_bytes` at each sample, `open_files` at the end.
    """
    dataset = next(iter(store.open(cache)))
    rows = np.flatnonzero(dataset.status(array) == OK)
    node = dataset.array(array)
    out = {array: np.ones((batch, *node.row_shape), node.dtype)}
    generator = np.random.default_rng(0)
    batches = -(-reads // batch)
    sampled = set(np.linspace(batches // 20, batches - 1, SAMPLES).astype(int).tolist())
    samples = []
    for number in range(batches):
        dataset.read(generator.choice(rows, batch), [array], out=out, verify=verify)
        if number in sampled:
            samples.append(own_memory("RssAnon"))
    return {
        "array": array,
        "reads": batches * batch,
        "verify": verify,
        "resident_bytes": samples,
        "growth_bytes": samples[-1] - samples[0],
        "open_files": len(os.listdir("/proc/self/fd")),
    }


def main(
    cache: tyro.conf.Positional[Path],
    /,
    array: str = PIXELS,
    reads: int = 100_000,
    batch: int = 32,
    verify: bool = True,
) -> None:
    """Read random rows and print a line of JSON.

    Args:
        cache: location of the cache.
        array: `pixels` or a teacher.
        reads: number of rows to read in all.
        batch: rows read at a time.
        verify: check checksums.
    """
    print(json.dumps(read_at_random(cache, array=array, reads=reads, batch=batch, verify=verify)))


if __name__ == "__main__":
    tyro.cli(main)
