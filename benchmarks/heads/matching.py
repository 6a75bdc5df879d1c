"""Fast reciprocal matching against the exhaustive search, on descriptors as large as a view of MASt3R-SfM.

    python -m benchmarks.heads.matching

The descriptors are a smooth field, seen twice under a shift with noise, as descriptors of neighbouring pixels are
alike. Exhaustive search is timed twice: as two plain products with `argmax`, and as ours, which settles ties exactly.
The runs alternate, and of each the median is taken.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import describe
from eval.heads import matching

CHANNELS = 24
PLAIN_BLOCK = 2048


def main(
    width: int = 200,
    height: int = 150,
    subsample: int = 8,
    repeats: int = 3,
    out: Path = Path("benchmarks/results/heads_matching.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        width: of both views, px.
        height: of both views, px.
        subsample: distance of the starts, px.
        repeats: runs of each, alternating.
        out: JSON file to write.
    """
    torch.set_num_threads(1)
    one, two = views(height, width)
    ways: dict[str, Callable[[], Any]] = {
        "fast": lambda: matching.fast_reciprocal(one, two, subsample),
        "exhaustive": lambda: matching.exhaustive(one, two),
        "plain": lambda: plain(one, two),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report = {
        "benchmark": "heads.matching",
        "machine": describe(("torch", "numpy", "scipy")),
        "view": [height, width],
        "matches": len(ways["fast"]()[0]),
        "seconds": medians,
        "times_faster_than_exhaustive": medians["exhaustive"] / medians["fast"],
        "times_faster_than_plain": medians["plain"] / medians["fast"],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "machine"}))
    return report


def views(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return unit descriptors (H, W, D) of two views of one smooth field."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CHANNELS, height // 4, width // 4, generator=generator)
    field = functional.interpolate(coarse, size=(height, width + 10), mode="bicubic")[0].permute(1, 2, 0)
    noise = 0.05 * torch.randn(2, height, width, CHANNELS, generator=generator)
    one, two = field[:, :width] + noise[0], field[:, 10:] + noise[1]
    return functional.normalize(one, dim=-1), functional.normalize(two, dim=-1)


def plain(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest neighbours both ways by products and `argmax` alone."""
    first, second = one.reshape(-1, CHANNELS), two.reshape(-1, CHANNELS)
    return _plain(first, second), _plain(second, first)


def _plain(queries: Tensor, keys: Tensor) -> Tensor:
    blocks = range(0, len(queries), PLAIN_BLOCK)
    return torch.cat([(queries[start : start + PLAIN_BLOCK] @ keys.T).argmax(dim=1) for start in blocks])


if __name__ == "__main__":
    tyro.cli(main)
