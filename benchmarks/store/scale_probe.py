"""Time and memory to work with a sealed cache of any size; `benchmarks.store.scale` runs it in a fresh process.

python -m benchmarks.store.scale_probe store CACHE
python -m benchmarks.store.scale_probe train CACHE
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

import store
from benchmarks.machine import own_memory
from store.format.schema import PIXELS

STEPS = 300
LOOKUPS = 5
READS = 2000
BATCH = 32


class Clock:
    """Times of named steps, and the memory of the process above its start."""

    def __init__(self) -> None:
        self._start_bytes = own_memory("VmRSS")
        self.report: dict[str, Any] = {"imports_bytes": self._start_bytes}

    def time(self, name: str, function: Callable[[], Any]) -> Any:
        """Run `function`, note its time, and return its result."""
        begun = time.perf_counter()
        result = function()
        self.report[f"{name}_s"] = time.perf_counter() - begun
        return result

    def note_memory(self, name: str) -> None:
        """Note memory above imports: resident now, and the peak."""
        self.report[f"{name}_bytes"] = own_memory("VmRSS") - self._start_bytes
        self.report[f"{name}_peak_bytes"] = own_memory("VmHWM") - self._start_bytes


def probe_store(location: Path) -> dict[str, Any]:
    """Open, find the usable rows of every dataset, look rows up, select rows, read rows from many files."""
    clock = Clock()
    cache = clock.time("open", lambda: store.open(location))
    names = clock.time("list_datasets_and_teachers", lambda: {dataset.name: dataset.teachers for dataset in cache})
    clock.note_memory("open")
    valid = clock.time(
        "valid_rows", lambda: {name: cache[name].valid_rows(teachers) for name, teachers in names.items()}
    )
    clock.note_memory("valid_rows")
    clock.report |= {
        "datasets": len(names),
        "rows": sum(dataset.rows for dataset in cache),
        "usable_rows": sum(len(rows) for rows in valid.values()),
    }
    del valid
    largest = max(cache, key=lambda dataset: dataset.rows)
    _probe_manifest(clock, largest)
    _probe_reads(clock, largest)
    return clock.report


def _probe_manifest(clock: Clock, dataset: store.Dataset) -> None:
    import pyarrow.compute as pc

    generator = np.random.default_rng(0)
    wanted = generator.integers(0, dataset.rows, LOOKUPS).tolist()
    took = []
    for row in wanted:
        begun = time.perf_counter()
        table = dataset.manifest(filter=pc.field("row") == row)
        took.append(time.perf_counter() - begun)
        assert table["row"].to_pylist() == [row]
    clock.report["row_lookup_s"] = float(np.median(took))
    chosen = (pc.field("crop_height") < 300) & pc.field("flip")
    selected = clock.time("selection", lambda: dataset.manifest(columns=["row"], filter=chosen))
    clock.report |= {"selection_of": dataset.rows, "selected": selected.num_rows}
    clock.note_memory("manifest")


def _probe_reads(clock: Clock, dataset: store.Dataset) -> None:
    """Read rows of shards all over the largest dataset: files are opened and closed, memory stays."""
    generator = np.random.default_rng(1)
    rows = dataset.valid_rows([])
    out = {PIXELS: np.ones((BATCH, *dataset.array(PIXELS).row_shape), np.uint8)}

    def read(count: int) -> None:
        for _ in range(0, count, BATCH):
            dataset.read(generator.choice(rows, BATCH), [PIXELS], out=out, verify=False)

    read(READS // 4)
    before = own_memory("RssAnon")
    clock.time("reads", lambda: read(READS))
    assert not out[PIXELS].any(), "the shards are holes"
    clock.report |= {
        "reads": READS,
        "reads_growth_bytes": own_memory("RssAnon") - before,
        "open_files": len(os.listdir("/proc/self/fd")),
    }


def probe_train(location: Path) -> dict[str, Any]:
    """Open the mixture as training does, and sample batches."""
    from train.data.open_caches import open_mixture
    from train.data.sampler import Sampler
    from train.recipe.named import find

    recipe = find("dune-base-336")
    clock = Clock()
    mixture = clock.time("ready", lambda: open_mixture(recipe, [str(location)]))
    sampler = Sampler(seed=recipe.seed, batch=recipe.data.batch, groups=mixture.group_rows)
    mixture.locate(sampler.sample_batch(0))
    clock.note_memory("ready")
    took = []
    for step in np.random.default_rng(0).integers(0, 10**6, STEPS).tolist():
        begun = time.perf_counter()
        selected = mixture.locate(sampler.sample_batch(step))
        took.append(time.perf_counter() - begun)
        assert len(selected) == recipe.data.batch
    return clock.report | {
        "batch": recipe.data.batch,
        "groups": mixture.group_rows,
        "step_s": float(np.median(took)),
        "step_p95_s": float(np.percentile(took, 95)),
    }


def main(subject: tyro.conf.Positional[Literal["store", "train"]], cache: tyro.conf.Positional[Path], /) -> None:
    """Measure and print a line of JSON.

    Args:
        subject: the store alone, or the trainer's sampler on it.
        cache: location of the cache.
    """
    print(json.dumps(probe_store(cache) if subject == "store" else probe_train(cache)))


if __name__ == "__main__":
    tyro.cli(main)
