"""Bootstrap over images: how much a number would move had other photographs been held out.

Tokens of a view and views of a photograph are anything but independent, so whole images are resampled.
Shapes: K images, R replicates.
"""

from collections.abc import Callable, Iterator

import numpy as np

BATCH_REPLICATES = 100


def replicates(
    sums: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    count: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """The statistic on `count` resamples of the images.

    With the same K, count and seed the same images are drawn, so replicates of two models scored on the same images
    may be subtracted: that is the paired bootstrap of their difference.

    Args:
        sums: float64 (K, ...) per-image sums; resampling adds them up.
        statistic: from summed (R, ...) to (R, ...) values.
        count: how many resamples.
        seed: of the draw.

    Returns:
        (count, ...) values.
    """
    flat = sums.reshape(len(sums), -1)
    shape = sums.shape[1:]
    draws = _resamples(len(sums), count=count, seed=seed)
    return np.concatenate([statistic((weights @ flat).reshape(len(weights), *shape)) for weights in draws])


def interval(values: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis of `values` (R, ...); NaN where a replicate is."""
    tail = (1.0 - level) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return low, high


def _resamples(images: int, *, count: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of (R, K) float64: how often each image is drawn in each resample."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, BATCH_REPLICATES):
        size = min(BATCH_REPLICATES, count - start)
        yield generator.multinomial(images, np.full(images, 1.0 / images), size=size).astype(np.float64)
