"""Bootstrap over images: how much a number would change with other held-out photographs.

Tokens of one view, and views of one photograph, are not independent, so whole images are resampled.
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
    """Compute a statistic on resamples of the images.

    The same K, count and seed give the same resamples, so replicates of two models scored on the same images may be
    subtracted: that is the paired bootstrap of their difference.

    Args:
        sums: float64 (K, ...) per-image sums; resampling adds them up.
        statistic: function of summed (R, ...) that returns (R, ...) values.
        count: number of resamples.
        seed: seed of the resampling.

    Returns:
        (count, ...) values.
    """
    flat = sums.reshape(len(sums), -1)
    shape = sums.shape[1:]
    batches = _resamples(len(sums), count=count, seed=seed)
    return np.concatenate([statistic((weights @ flat).reshape(len(weights), *shape)) for weights in batches])


def interval(values: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Compute the percentile interval over the first axis of `values` (R, ...); NaN where a replicate is NaN."""
    tail = (1.0 - level) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return low, high


def _resamples(images: int, *, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield batches of (R, K) float64: how often each image occurs in each resample."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, BATCH_REPLICATES):
        size = min(BATCH_REPLICATES, count - start)
        yield generator.multinomial(images, np.full(images, 1.0 / images), size=size).astype(np.float64)
