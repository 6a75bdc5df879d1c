"""Moments of float16 tokens, computed in float64 from the sums and extremes of `store.format.kernels`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format import kernels
from store.format.kernels import LEAST_SIGNED, SCALE, Measure
from store.format.statistics import Float64, Moments, empty, from_stacked, stacked

Float16 = npt.NDArray[np.float16]


class TokenMoments:
    """Moments of the prefix and patch tokens of rows, added one row after another; not for several threads."""

    def __init__(self, *, prefix_tokens: int, tokens: int, channels: int, rows: int) -> None:
        """Begin with no row.

        Args:
            prefix_tokens: tokens before the patches in each row.
            tokens: tokens of a row, prefix included.
            channels: values of a token.
            rows: approximate number of rows to come; it only decides which kernel is fastest.
        """
        measure = kernels.measure(channels, values=rows * tokens * channels)
        self._prefix = _Part(slice(0, prefix_tokens), channels, measure) if prefix_tokens else None
        self._patch = _Part(slice(prefix_tokens, tokens), channels, measure)
        self._parts = [part for part in (self._prefix, self._patch) if part is not None]

    def add(self, row: Float16) -> bool:
        """Add a row [N, C] if all of its values are finite; return whether they are."""
        row = np.ascontiguousarray(row)
        for part in self._parts:
            part.measure(row[part.tokens])
        if not all(part.finite for part in self._parts):
            return False
        for part in self._parts:
            part.add(row[part.tokens])
        return True

    def result(self) -> tuple[Moments | None, Moments]:
        """Return the moments of prefix and patch tokens of all rows added; None stands for no prefix token."""
        prefix = None if self._prefix is None else self._prefix.moments()
        return from_stacked(stacked(prefix, self._patch.moments()))


class _Part:
    """Moments of the prefix or of the patch tokens.

    No reference is subtracted from sums. Values and squares of float16 are exact in float64, and their sums round only
    where values of very different size meet, which makes the variance large; so nothing is lost as long as the
    difference `sum of squares - mean * sum` is taken exactly, which `moments` does.

    Extremes are found on the bits. Among non-negative values larger bits are larger values; among negative ones (sign
    bit set) they are smaller. So the largest bits, once as signed and once as unsigned integers, suffice for channels
    that have both, and only the others need the least bits as well.

    Attributes:
        tokens: slice of a row's tokens.
    """

    def __init__(self, tokens: slice, channels: int, measure: Measure) -> None:
        self.tokens = tokens
        self._measure = measure
        self._row_sums = np.empty((2, channels))  # of values and of squares, divided by SCALE and its square
        self._row_max = _Bits.of(LEAST_SIGNED, 0, shape=(channels,))
        self._count = 0
        self._sums = np.zeros((2, channels))
        self._max = _Bits.of(LEAST_SIGNED, 0, shape=(channels,))
        self._min = _Bits.of(np.iinfo(np.int16).max, np.iinfo(np.uint16).max, shape=(channels,))  # where needed

    def measure(self, tokens: Float16) -> None:
        """Find sums and largest bits of a row's tokens [N, C]."""
        self._measure(tokens.view(np.int16), self._row_sums, self._row_max.signed, self._row_max.unsigned)

    @property
    def finite(self) -> bool:
        """True if no value of the measured row is NaN or infinite."""
        return bool(self._row_max.signed.max() < 0x7C00 and self._row_max.unsigned.max() < 0xFC00)

    def add(self, tokens: Float16) -> None:
        """Add the measured row."""
        self._count += len(tokens)
        self._sums += self._row_sums
        bits = _Bits.of_tokens(tokens)
        np.maximum(self._max.signed, self._row_max.signed, out=self._max.signed)
        np.maximum(self._max.unsigned, self._row_max.unsigned, out=self._max.unsigned)
        _lower(self._min.signed, bits.signed, np.flatnonzero(self._max.signed < 0))
        _lower(self._min.unsigned, bits.unsigned, np.flatnonzero(self._max.unsigned < 0x8000))

    def moments(self) -> Moments:
        """Return the moments of all tokens added."""
        if not self._count:
            return empty(self._sums.shape[1])
        total, squares = self._sums[0] * SCALE, self._sums[1] * SCALE**2
        product, product_error = _exact_product(squares, float(self._count))
        square, square_error = _exact_product(total, total)
        m2 = ((product - square) + (product_error - square_error)) / self._count
        low = np.where(self._max.unsigned < 0x8000, self._min.unsigned, self._max.unsigned)
        high = np.where(self._max.signed < 0, self._min.signed, self._max.signed)
        return Moments(
            count=np.full(len(total), float(self._count)),
            mean=total / self._count,
            m2=np.maximum(m2, 0.0),
            min=low.view(np.float16).astype(np.float64) + 0.0,
            max=high.view(np.float16).astype(np.float64) + 0.0,
        )


@dataclass(frozen=True)
class _Bits:
    """Bits of float16 as integers [..., channel]."""

    signed: npt.NDArray[np.int16]
    unsigned: npt.NDArray[np.uint16]

    @classmethod
    def of(cls, signed: int, unsigned: int, *, shape: tuple[int, ...]) -> "_Bits":
        return cls(np.full(shape, signed, np.int16), np.full(shape, unsigned, np.uint16))

    @classmethod
    def of_tokens(cls, tokens: Float16) -> "_Bits":
        return cls(tokens.view(np.int16), tokens.view(np.uint16))


def _lower(least: npt.NDArray[Any], bits: npt.NDArray[Any], channels: npt.NDArray[np.int64]) -> None:
    """Lower `least` [C] to the least of `bits` [N, C] in some channels, usually few."""
    if 8 * len(channels) > len(least):
        np.minimum(least, bits.min(axis=0), out=least)
    elif len(channels):
        least[channels] = np.minimum(least[channels], bits[:, channels].min(axis=0))


def _exact_product(a: Float64, b: Float64 | float) -> tuple[Float64, Float64]:
    """Return (rounded product, rounding error) of float64 (Dekker)."""
    product = np.asarray(a * b)
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(np.asarray(b))
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: Float64) -> tuple[Float64, Float64]:
    scaled = a * 134217729.0  # 2**27 + 1
    high = scaled - (scaled - a)
    return high, a - high
