"""Moments of stored tokens: computed in float64 of the stored values, merged stably over any set of datasets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors

Float64 = npt.NDArray[np.float64]
BLOCK_TOKENS = 64  # tokens converted at a time; the block stays in the second-level cache
SCALE = 2.0**112


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Per-channel moments of a set of tokens.

    Attributes:
        count: tokens, the same in every channel.
        mean, m2, min, max: float64 [channel]; m2 is the sum of squared deviations from the mean.
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
        """Whether two computations of the same moments agree to `rtol`; extremes and counts must be equal.

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
    """Moments of a teacher's tokens over the ok rows of a dataset; prefix is None without prefix tokens."""

    prefix: Moments | None
    patch: Moments


def empty(channels: int) -> Moments:
    """Return the moments of no token."""
    zeros, infinite = np.zeros(channels), np.full(channels, np.inf)
    return Moments(count=zeros, mean=zeros, m2=zeros, min=infinite, max=-infinite)


@dataclass(frozen=True)
class Extremes:
    """Per-channel extremes of float16 tokens, found on the bits: as integers they compare fast.

    Attributes:
        low, high: int16 [channel], float16 bits turned so that they compare as their values do (`_turned`).
    """

    low: npt.NDArray[np.int16]
    high: npt.NDArray[np.int16]

    @classmethod
    def of(cls, tokens: npt.NDArray[np.float16]) -> "Extremes":
        """Return the extremes of tokens [N, C], N >= 1.

        Among non-negative values larger bits are larger values; among negative ones (sign bit set) they are smaller. So
        two passes suffice for channels that have both, and only the others need more.
        """
        signed, unsigned = tokens.view(np.int16), tokens.view(np.uint16)
        high, low = signed.max(axis=0), unsigned.max(axis=0)
        _set_least(high, signed, high < 0)
        _set_least(low, unsigned, low < 0x8000)
        return cls(_turned(low.view(np.int16)), _turned(high))

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(self.high.max() < 0x7C00 and self.low.min() >= -0x7C00)

    def union(self, other: "Extremes") -> "Extremes":
        """Return the extremes of both sets of tokens."""
        return Extremes(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def values(self) -> tuple[Float64, Float64]:
        """Return (min, max), float64 [channel]."""
        low, high = (_turned(keys).view(np.float16).astype(np.float64) + 0.0 for keys in (self.low, self.high))
        return low, high


def _turned(bits: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Turn round what is negative, to and fro: float16 bits in the order of their values."""
    return np.asarray(bits ^ ((bits >> 15) & 0x7FFF))


def _set_least(extreme: npt.NDArray[Any], bits: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> None:
    """Set `extreme` to the least of `bits` [N, C] in some channels, usually few."""
    channels = np.flatnonzero(where)
    if 8 * len(channels) > len(where):
        extreme[channels] = bits.min(axis=0)[channels]
    elif len(channels):
        extreme[channels] = bits[:, channels].min(axis=0)


class Scratch:
    """Memory to compute `power_sums` in; allocating it each time costs as much as a third of the sums.

    Args:
        channels: of the tokens.
    """

    def __init__(self, channels: int) -> None:
        self.single = np.empty((BLOCK_TOKENS, channels), np.float32)
        self.double = np.empty((BLOCK_TOKENS, channels), np.float64)


def power_sums(tokens: npt.NDArray[np.float16], scratch: Scratch | None = None) -> Float64:
    """Return float64 [2, channel]: the sums of values and of squares of finite tokens [N, C].

    No reference is subtracted. Values and squares of float16 are exact in float64, and their sums round only where
    values of very different size meet, which makes the variance large; so nothing is lost as long as the difference
    `sum of squares - mean * sum` is taken exactly, which `Accumulator.moments` does.
    """
    scratch = scratch or Scratch(tokens.shape[1])
    sums = np.zeros((2, tokens.shape[1]))
    for start in range(0, len(tokens), BLOCK_TOKENS):
        values = _scaled(tokens[start : start + BLOCK_TOKENS], scratch)
        sums[0] += values.sum(axis=0)
        sums[1] += np.einsum("nc,nc->c", values, values)
    sums *= [[SCALE], [SCALE**2]]
    return sums


def _scaled(tokens: npt.NDArray[np.float16], scratch: Scratch) -> Float64:
    """Return finite float16 divided by `SCALE` as float64, exactly, in `scratch`; a third faster than numpy converts.

    The bits are moved to where float32 has them. Its exponent counts from -127 and that of float16 from -15, hence the
    scale; squares of the result are still far from the ends of float64.
    """
    single, double = scratch.single[: len(tokens)], scratch.double[: len(tokens)]
    bits = single.view(np.int32)
    np.copyto(bits, tokens.view(np.int16))  # extends the sign over the high bits
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, -0x70002000, out=bits)  # keeps sign, 5 exponent and 10 fraction bits
    np.copyto(double, single)
    return double


class Accumulator:
    """Moments of float16 tokens given as power sums and extremes of parts, in any order of computing."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = np.zeros((2, channels))
        self._extremes: Extremes | None = None

    def add(self, count: int, sums: Float64, extremes: Extremes) -> None:
        """Take in `count` tokens by their `power_sums` and `Extremes`."""
        self._count += count
        self._sums += sums
        self._extremes = extremes if self._extremes is None else self._extremes.union(extremes)

    def add_tokens(self, tokens: npt.NDArray[np.float16]) -> None:
        """Take in finite tokens [N, C]."""
        if len(tokens):
            self.add(len(tokens), power_sums(tokens), Extremes.of(tokens))

    def moments(self) -> Moments:
        """Return the moments of all tokens taken in."""
        channels = self._sums.shape[1]
        if self._extremes is None:
            return empty(channels)
        total, squares = self._sums
        product, product_error = _exact_product(squares, float(self._count))
        square, square_error = _exact_product(total, total)
        m2 = ((product - square) + (product_error - square_error)) / self._count
        low, high = self._extremes.values()
        return Moments(
            count=np.full(channels, float(self._count)),
            mean=total / self._count,
            m2=np.maximum(m2, 0.0),
            min=low,
            max=high,
        )


def _exact_product(a: Float64, b: Float64 | float) -> tuple[Float64, Float64]:
    """Return (rounded product, what rounding took away) of float64 (Dekker)."""
    product = np.asarray(a * b)
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(np.asarray(b))
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: Float64) -> tuple[Float64, Float64]:
    scaled = a * 134217729.0  # 2**27 + 1
    high = scaled - (scaled - a)
    return high, a - high


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
        parts: at least one.
        weights: how often training draws from each part (any scale); None weights by the number of tokens.

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
        drawn = np.asarray(weights, dtype=np.float64)
        drawn = np.where(values[:, 0, 0] > 0, drawn, 0.0) if drawn.shape == (len(parts),) else drawn
        if drawn.shape != (len(parts),) or not np.isfinite(drawn).all() or (drawn < 0).any() or not drawn.any():
            message = f"weights {list(weights)} for {len(parts)} parts: one non-negative number each, not all zero"
            raise errors.InvalidInput(message)
        count = values[:, 0].copy()
        wanted = (drawn / drawn.sum())[:, None] * count.sum(axis=0)
        values[:, 2] *= np.divide(wanted, count, out=np.zeros_like(count), where=count > 0)
        values[:, 0] = wanted
    merged = merge_stacked(values)
    return Moments(count=merged[0], mean=merged[1], m2=merged[2], min=merged[3], max=merged[4])


def coarse_channels(moments: Moments, *, limit: float = 0.01) -> npt.NDArray[np.int64]:
    """Return the channels whose float16 rounding (root mean square) exceeds `limit` of their standard deviation."""
    magnitude = np.sqrt(np.square(moments.mean) + np.nan_to_num(moments.var))
    exponent = np.floor(np.log2(np.maximum(magnitude, 2.0**-14)))
    rounding = 2.0 ** (exponent - 10) / np.sqrt(12)
    return np.flatnonzero((moments.count > 0) & (magnitude > 0) & (rounding > limit * np.nan_to_num(moments.std)))
