"""Images a second of a plain DataLoader over `codistill.torch.CacheDataset`, against our own loader on the same rows.

    python -m benchmarks.library --cache demo/cache        # a cache that is there; the demo's has codes and JPEG
    python -m benchmarks.library                           # float16 rows of the real size, made for the occasion
    python -m benchmarks.library --workers 0 1 2 --batch 64

Both deliver the same batches, in the same order, to host memory, and take turns in one process; a consumer reads one
byte a page of every batch, so that lazily mapped memory counts. The ratio is that of neighbouring rounds.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader

import store
from benchmarks.machine import describe as describe_machine
from benchmarks.noise import manifest_of_noise
from codistill.torch import BalancedBatchSampler, CacheDataset
from codistill.torch.batch import Batch
from store.format.schema import PIXELS
from train.data.loader import Loader
from train.data.mixture import RowSelection

PAGE_BYTES = 4096
WARMUP_STEPS = 12  # until every piece of memory has been used: fresh pages are slow, once
IMAGE_SIZE, GRID, CHANNELS, SHARD_ROWS = 336, 24, 1024, 32
TEACHERS = {"first": 1, "second": 0, "third": 0}  # prefix tokens


def main(
    cache: tuple[Path, ...] = (),
    workers: tuple[int, ...] = (0, 1, 2),
    batch: int = 64,
    steps: int = 20,
    rounds: int = 5,
    rows: int = 256,
    verify: bool = True,
    out: Path = Path("benchmarks/results/library.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        cache: sealed caches; none makes one of float16 tokens of three ViT-L teachers at 336 px.
        workers: numbers of workers of the DataLoader to try.
        batch: images of a batch.
        steps: batches of a round, after twelve that warm up.
        rounds: rounds of each way, in turn.
        rows: rows of the cache that is made, 3.9 MB each.
        verify: check the checksum of every row.
        out: JSON file to write.
    """
    made = None if cache else Path(tempfile.mkdtemp(prefix="codistill-library-"))
    try:
        if made is not None:
            build_cache(made, rows=rows)
        results = {
            str(location): measure(location, workers=workers, batch=batch, steps=steps, rounds=rounds, verify=verify)
            for location in ([made] if made else cache)
        }
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    report = {"batch": batch, "steps": steps, "machine": describe_machine(["torch", "codistill"]), "caches": results}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(as_markdown(report))
    return report


def measure(
    location: Path, *, workers: tuple[int, ...], batch: int, steps: int, rounds: int, verify: bool
) -> dict[str, Any]:
    """Return images a second of our loader, and of the DataLoader with each number of workers."""
    data = CacheDataset(location, verify=verify)
    seconds: dict[str, list[float]] = {name: [] for name in ["loader", *(f"workers {count}" for count in workers)]}
    for number in range(rounds):
        order = list(seconds) if number % 2 == 0 else list(reversed(seconds))
        for name in order:
            count = None if name == "loader" else int(name.split()[1])
            seconds[name].append(run(data, count, batch=batch, steps=steps, verify=verify))
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(seconds["loader"], taken, strict=True))
        for name, taken in seconds.items()
        if name != "loader"
    }
    rates = {name: batch * steps / statistics.median(taken) for name, taken in seconds.items()}
    row_bytes = data.batch(range(1)).memory.nbytes
    return {"images_per_s": rates, "ratio": ratios, "seconds": seconds, "row_bytes": row_bytes}


def run(data: CacheDataset, workers: int | None, *, batch: int, steps: int, verify: bool) -> float:
    """Return the seconds that `steps` batches take, after those that warm up; workers None means our own loader."""
    sampler = BalancedBatchSampler(data, batch_size=batch, steps=steps + WARMUP_STEPS)
    if workers is not None:
        batches = DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=data.collate,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
        )
        return _timed(batches)
    mixture = data._here().selection.mixture  # the same rows and open files

    def plan(step: int) -> RowSelection:
        sources, rows = data.locate(sampler.indices(step))
        return RowSelection(source=sources, row=rows, slot=np.arange(len(rows)))

    with Loader(
        sources=mixture.sources,
        teachers=mixture.teachers,
        image_size=mixture.image_size,
        plan=plan,
        steps=range(steps + WARMUP_STEPS),
        batch=batch,
        device=torch.device("cpu"),
        verify=verify,
        raw=True,
    ) as loader:
        return _timed(loader)


def _timed(batches: Iterable[Any]) -> float:
    begun = 0.0
    for number, batch in enumerate(batches):
        for array in _arrays(batch):
            _touch(array)
        if number == WARMUP_STEPS - 1:
            begun = time.perf_counter()
    return time.perf_counter() - begun


def _arrays(batch: Any) -> Iterable[Tensor]:
    if isinstance(batch, Batch):
        return [batch.memory]
    return [batch.pixels, *batch.tokens.values(), *(codes.codes for codes in batch.codes.values())]


def _touch(array: Tensor) -> None:
    """Read one byte of every page."""
    array.reshape(-1).view(torch.uint8)[::PAGE_BYTES].max()


def build_cache(location: Path, *, rows: int) -> None:
    """Write a sealed cache of random pixels and float16 tokens of three teachers."""
    cache = store.create(location, {"image_size": IMAGE_SIZE, "shard_rows": SHARD_ROWS})
    numbers = pa.array(range(rows), pa.int64())
    images = pa.table({"image_index": numbers, "path": [f"{row}.png" for row in range(rows)], "bytes": numbers})
    dataset = cache.create_dataset("noise", images=images, group="all", split="train", mode="train", views=1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for name, prefix in TEACHERS.items():
        dataset.create_teacher(
            name,
            identity={"random": name},
            groups=["all"],
            patch_grid=(GRID, GRID),
            prefix_tokens=prefix,
            channels=CHANNELS,
        )
    tokens = generator.normal(size=(GRID * GRID + 1, CHANNELS)).astype(np.float16)
    for shard in range(dataset.shards):
        shard_rows = dataset.shard_rows_of(shard)
        with dataset.write_shard(PIXELS, shard, provenance={}) as writer:
            for row in shard_rows:
                writer.append(np.roll(pixels, row, axis=0))
            writer.finish(manifest=manifest_of_noise(shard_rows))
        digest = dataset.read_trailer(PIXELS, shard).digest
        for name, prefix in TEACHERS.items():
            with dataset.write_shard(name, shard, provenance={}, pixels_digest=digest) as writer:
                for row in shard_rows:
                    writer.append(np.roll(tokens[1 - prefix :], row, axis=1))
                writer.finish()
    store.seal(cache)


def as_markdown(report: dict[str, Any]) -> str:
    """Return the report as a table in Markdown."""
    lines = [
        "| cache | bytes a row | our loader, images/s | DataLoader, images/s | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, result in report["caches"].items():
        rates, row_bytes = result["images_per_s"], result["row_bytes"]
        for way, ratio in result["ratio"].items():
            cells = [f"{Path(name).name}, {way}", f"{row_bytes:,}", f"{rates['loader']:,.0f}", f"{rates[way]:,.0f}"]
            lines.append(f"| {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
