"""How quickly a trainer is ready on a sealed cache of DUNE's size: 20.7 M rows, three teachers, no shards needed.

    python -m benchmarks.startup

The cache is generated: real metadata, image lists and sealed tables, no pixels and no tokens. Targets: ready in under
10 s, a step of the sampler in under 1 ms, under 400 MB above the imports.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tyro

import store
from benchmarks.machine import own_memory
from store import schema, sealed
from store.schema import FAILED, OK, PIXELS
from train.mixture import Mixture
from train.opening import describe, open_mixture
from train.recipes import find
from train.sampling import Sampler

# name, group, images, views: the sizes of DUNE's three groups
DATASETS = (
    ("in19k", "dinov2", 1_155_769, 16),
    ("dl3dv", "mast3r", 174_857, 10),
    ("bedlam", "multihmr", 47_661, 10),
)
TEACHERS = (("dinov2", 1), ("mast3r", 0), ("multihmr", 0))
CHANNELS, GRID = 1024, (24, 24)
FAILED_SHARE = 1e-4


def main(out: Path = Path("benchmarks/results/startup.json"), shrink: int = 1) -> dict[str, Any]:
    """Generate, measure, report.

    Args:
        out: JSON to write.
        shrink: divides the number of images, for tests.
    """
    location = Path(tempfile.mkdtemp(prefix="codistill-startup-"))
    try:
        generate(location, shrink=shrink)
        report = measure(location)
    finally:
        shutil.rmtree(location, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return report


def generate(location: Path, *, shrink: int) -> None:
    """Write a cache whose sealed tables say that nearly every row is there."""
    cache = store.create(location, {"image_size": 336, "shard_rows": 256})
    random = np.random.default_rng(0)
    for name, group, images, views in DATASETS:
        count = max(1, images // shrink)
        table = pa.table(
            {
                "image_index": pa.array(np.arange(count)),
                "path": [f"{number:07d}.jpg" for number in range(count)],
                "bytes": pa.array(np.ones(count, dtype=np.int64)),
            }
        )
        dataset = cache.create_dataset(name, images=table, group=group, split="train", mode="train", views=views)
        for teacher, prefix in TEACHERS:
            dataset.create_teacher(
                teacher,
                identity={"model": teacher},
                groups=[teacher],
                patch_grid=GRID,
                prefix_tokens=prefix,
                channels=CHANNELS,
            )
            _put(location, schema.statistics_path(name, teacher), np.ones((2, 5, CHANNELS)))
        for array in (PIXELS, *(teacher for teacher, _ in TEACHERS)):
            status = np.where(random.random(dataset.rows) < FAILED_SHARE, FAILED, OK).astype(np.uint8)
            _put(location, schema.status_path(name, array), status)


def measure(location: Path) -> dict[str, Any]:
    """Time opening, the first batch and further batches; take the memory they add."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = own_memory("VmRSS")
    begun = time.perf_counter()
    mixture = open_mixture(find("dune-base-336"), [str(location)])
    opened = time.perf_counter()
    describe(mixture)
    sampler = Sampler(seed=0, batch=512, groups=mixture.group_rows)
    mixture.locate(sampler.draw(0))
    ready = time.perf_counter()
    times = [_step_s(mixture, sampler, step) for step in range(0, 100_000, 1000)]
    return {
        "rows": sum(mixture.group_rows.values()),
        "open_s": opened - begun,
        "ready_s": ready - begun,
        "sampler_step_ms": 1e3 * float(np.median(times)),
        "added_mb": (own_memory("VmRSS") - before) / 1e6,
        "added_peak_mb": (own_memory("VmHWM") - before) / 1e6,
    }


def _step_s(mixture: Mixture, sampler: Sampler, step: int) -> float:
    begun = time.perf_counter()
    mixture.locate(sampler.draw(step))
    return time.perf_counter() - begun


def _put(location: Path, path: str, values: "np.ndarray[Any, np.dtype[Any]]") -> None:
    place = location / sealed.small_array_key(path, values.ndim)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(sealed.small_array_bytes(values))


if __name__ == "__main__":
    tyro.cli(main)
