"""Moments of stored tokens: their stored form, and stable merging over any set of datasets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors

Float64 = npt.NDArray[np.float64]

LARGEST = 65504 * 1.01  # of float16; means are rounded
MAX_COUNT = 2.0**53


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Per-channel moments of a set of tokens.

    Attributes:
        count: number of tokens, float64 [channel], the same in every channel.
        mean, min, max: float64 [channel].
        m2: sum of squared deviations from the mean, float64 [channel].
    """

    count: Float64
    mean: Float64
    m2: Float64
    min: Float64
    max: Float64

    @property
    def var(self) -> Float64:
        """Population variance, float64 [channel]; NaN without tokens."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.m2 / self.count)

    @property
    def std(self) -> Float64:
        """Population standard deviation, float64 [channel]; NaN without tokens."""
        return np.asarray(np.sqrt(self.var))

    def agrees(self, other: "Moments", *, rtol: float = 1e-9) -> bool:
        """Return whether two computations of the same moments agree to `rtol`; extremes and counts must be equal.

        Differences of m2 are also allowed up to what float64 can resolve of the sum of squares.
        """
        scale = np.abs(self.mean) + np.abs(other.mean)
        floor = 64 * np.finfo(np.float64).eps * self.count * scale**2
        mean_floor = rtol * np.maximum(np.abs(self.min), np.abs(self.max))
        return bool(
            np.array_equal(self.count, other.count)
            and np.array_equal(self.min, other.min)
            and np.array_equal(self.max, other.max)
            and (np.abs(self.mean - other.mean) <= np.where(self.count > 0, mean_floor, 0.0)).all()
            and (np.abs(self.m2 - other.m2) <= rtol * np.maximum(self.m2, other.m2) + floor).all()
        )


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Moments of a teacher's tokens over the ok rows of a dataset; prefix is None where they have no prefix token."""

    prefix: Moments | None
    patch: Moments


def agree(moments: Moments | None, others: Moments | None) -> bool:
    """Return whether two computations of the same moments agree; None, which stands for no tokens, agrees with None."""
    return moments is others if moments is None or others is None else moments.agrees(others)


def empty(channels: int) -> Moments:
    """Return the moments of no token."""
    zeros, infinite = np.zeros(channels), np.full(channels, np.inf)
    return Moments(count=zeros, mean=zeros, m2=zeros, min=infinite, max=-infinite)


def stacked(prefix: Moments | None, patch: Moments) -> Float64:
    """Return float64 [type, 5, channel] as stored: prefix then patch; count, mean, M2, min, max."""
    parts = (prefix or empty(len(patch.mean)), patch)
    return np.stack([np.stack([part.count, part.mean, part.m2, part.min, part.max]) for part in parts])


def from_stacked(values: npt.NDArray[Any]) -> tuple[Moments | None, Moments]:
    """Return (prefix, patch) of a stored [type, 5, channel] array; prefix is None if it has no token."""
    prefix, patch = (
        Moments(count=v[0], mean=v[1], m2=v[2], min=v[3], max=v[4]) for v in np.asarray(values, np.float64)
    )
    return (prefix if prefix.count.any() else None), patch


def moments_problem(values: Float64) -> str:
    """Return why stored values [type, 5, channel] cannot be moments of float16 tokens; empty if they can."""
    count, mean, m2, low, high = (values[:, statistic] for statistic in range(5))
    with np.errstate(invalid="ignore"):  # comparing NaN
        counts = (count >= 0) & (count <= MAX_COUNT) & (count == np.floor(count)) & (count == count[:, :1])
        none = (count == 0) & (mean == 0) & (m2 == 0)
        some = (np.abs(mean) <= LARGEST) & (m2 >= 0) & np.isfinite(m2) & (low <= high)
        some &= (np.abs(low) <= LARGEST) & (np.abs(high) <= LARGEST)
    if values.shape[-1] < 1 or not counts.all():
        return "counts are not one whole number for all channels"
    if not (none | ((count > 0) & some)).all():
        return "mean, M2 and extremes are not those of float16 numbers"
    return ""


def merge_stacked(values: Float64) -> Float64:
    """Merge moments exactly as if computed over the union (Chan, for any number of parts at once).

    Args:
        values: float64 [part, ..., 5, channel].

    Returns:
        float64 [..., 5, channel].
    """
    count, mean, m2 = values[..., 0, :], values[..., 1, :], values[..., 2, :]
    total = count.sum(axis=0)
    share = np.divide(count, total, out=np.zeros_like(count), where=total > 0)
    centre = (share * mean).sum(axis=0)
    spread = m2.sum(axis=0) + (count * np.square(mean - centre)).sum(axis=0)
    return np.stack([total, centre, spread, values[..., 3, :].min(axis=0), values[..., 4, :].max(axis=0)], axis=-2)


def merge(parts: Sequence[Moments], weights: Sequence[float] | None = None) -> Moments:
    """Merge the moments of several datasets.

    Args:
        parts: moments of each dataset, at least one.
        weights: how often training samples from each part (any scale); None weights by the number of tokens.

    Returns:
        Moments of the union, or of the mixture: its `count` is the number of tokens seen, its `m2` is such that `std`
        is the mixture's.

    Raises:
        errors.InvalidInput: nothing to merge, or weights that are not one non-negative number a part.
    """
    if not parts:
        raise errors.InvalidInput("no moments to merge: name at least one dataset that has ok rows")
    values = np.stack([stacked(None, part)[1] for part in parts])
    if weights is not None:
        sampled = np.asarray(weights, dtype=np.float64)
        sampled = np.where(values[:, 0, 0] > 0, sampled, 0.0) if sampled.shape == (len(parts),) else sampled
        if sampled.shape != (len(parts),) or not np.isfinite(sampled).all() or (sampled < 0).any() or not sampled.any():
            message = f"weights {list(weights)} for {len(parts)} parts: one non-negative number each, not all zero"
            raise errors.InvalidInput(message)
        count = values[:, 0].copy()
        wanted = (sampled / sampled.sum())[:, None] * count.sum(axis=0)
        values[:, 2] *= np.divide(wanted, count, out=np.zeros_like(count), where=count > 0)
        values[:, 0] = wanted
    merged = merge_stacked(values)
    return Moments(count=merged[0], mean=merged[1], m2=merged[2], min=merged[3], max=merged[4])


def coarse_channels(moments: Moments, *, limit: float = 0.01) -> npt.NDArray[np.int64]:
    """Return the channels whose float16 rounding (root mean square) exceeds `limit` of their standard deviation.

    A single token has no deviation to compare with: none of its channels is returned.
    """
    magnitude = np.sqrt(np.square(moments.mean) + np.nan_to_num(moments.var))
    exponent = np.floor(np.log2(np.maximum(magnitude, 2.0**-14)))
    rounding = 2.0 ** (exponent - 10) / np.sqrt(12)
    return np.flatnonzero((moments.count > 1) & (magnitude > 0) & (rounding > limit * np.nan_to_num(moments.std)))
