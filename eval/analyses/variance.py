"""Cumulative explained variance of features (Fig. 4): how many principal components hold how much of them.

Only the count, the mean and the centred second moments are kept, in float64, and parts merge exactly, so that one
task a shard can compute them. Shapes: N tokens, C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TOKENS_PER_CHANNEL = 10


@dataclass(frozen=True, kw_only=True)
class Covariance:
    """Count, mean (C,) and sum of centred outer products (C, C), float64, of some tokens."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray) -> "Covariance":
        """The moments of (N, C) tokens, centred before they are multiplied so that large means cost no digits."""
        values = np.asarray(tokens, np.float64)
        mean = values.mean(0) if len(values) else np.zeros(values.shape[1])
        centred = values - mean
        return cls(count=len(values), mean=mean, scatter=centred.T @ centred)

    @property
    def enough(self) -> bool:
        """Whether there are at least ten tokens a channel, below which small eigenvalues are noise."""
        return self.count >= TOKENS_PER_CHANNEL * len(self.mean)


def merge(parts: Iterable[Covariance]) -> Covariance:
    """The moments of all tokens from those of parts.

    Raises:
        ValueError: without parts.
    """
    iterator = iter(parts)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no moments to merge")
    count, mean, scatter = first.count, first.mean, first.scatter.copy()
    for part in iterator:
        total = count + part.count
        if not part.count:
            continue
        shift = part.mean - mean
        scatter += part.scatter + np.outer(shift, shift) * (count * part.count / total)
        mean = mean + shift * (part.count / total)
        count = total
    return Covariance(count=count, mean=mean, scatter=scatter)


def cumulative_explained_variance(covariance: Covariance, *, standardised: bool = False) -> np.ndarray:
    """The share of the variance in the first 1, 2, ..., C principal components.

    Args:
        covariance: moments of the features.
        standardised: divide every channel by its standard deviation first, so that no channel counts for more
            because of its scale; a channel that never varies stays at zero.

    Returns:
        float64 (C,), ascending to 1. All NaN if nothing varies.
    """
    scatter = covariance.scatter
    if standardised:
        scale = np.sqrt(np.diag(scatter))
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        scatter = scatter * inverse[:, None] * inverse[None, :]
    values = np.linalg.eigvalsh(scatter)[::-1].clip(min=0.0)
    total = values.sum()
    if total <= 0:
        return np.full(len(values), np.nan)
    return np.asarray(np.cumsum(values) / total)


def components_for(curve: np.ndarray, share: float) -> int:
    """How many components it takes for `share` of the variance, from a cumulative curve (C,)."""
    return int(np.searchsorted(curve, share - 1e-12)) + 1
