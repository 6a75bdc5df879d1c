"""Computing moments of float16 tokens in float64: in pieces for several threads, with as few passes as numpy allows.

A row of tokens is a megabyte and each numpy call a pass over it, so that the passes are what it costs: values are
widened by moving bits, extremes are found on the bits as integers, and all of it block by block, in the processor's
cache.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from store.crew import Task
from store.statistics import Float64, Moments, empty

BLOCK_TOKENS = 64  # what stays in the second-level cache
PIECE_TOKENS = 128  # what one thread takes at a time
SCALE = 2.0**112

Float16 = npt.NDArray[np.float16]


class TokenMoments:
    """Moments of the prefix and patch tokens of rows, taken in one row after another.

    Sums are added in the order of rows and pieces, so that the timing of threads changes no bit.
    """

    def __init__(self, *, prefix_tokens: int, tokens: int, channels: int) -> None:
        """Begin with no row.

        Args:
            prefix_tokens: how many tokens lead each row.
            tokens: of a row, prefix included.
            channels: of a token.
        """
        self._parts = [slice(0, prefix_tokens)] if prefix_tokens else []
        self._parts.append(slice(prefix_tokens, tokens))
        self._pieces = [
            [slice(start, min(start + PIECE_TOKENS, part.stop)) for start in range(part.start, part.stop, PIECE_TOKENS)]
            for part in self._parts
        ]
        self._found: list[list[Piece | None]] = [[None] * len(pieces) for pieces in self._pieces]
        self._accumulators = [Accumulator(channels) for _ in self._parts]
        self._local = threading.local()

    def tasks(self, row: Float16) -> list[Task]:
        """Return what has to be done, in any order and on any thread, before `take` of a row [N, C]."""
        return [
            partial(self._measure, row, part, number)
            for part, pieces in enumerate(self._pieces)
            for number in range(len(pieces))
        ]

    def take(self, row: Float16) -> bool:
        """Take in the row whose tasks are done if all of its values are finite, and say whether they are."""
        found = [[piece for piece in pieces if piece is not None] for pieces in self._found]
        extremes = [Extremes.of(row[part], pieces) for part, pieces in zip(self._parts, found, strict=True)]
        if not all(extreme.finite for extreme in extremes):
            return False
        for accumulator, pieces, extreme in zip(self._accumulators, found, extremes, strict=True):
            accumulator.take(pieces, extreme)
        return True

    def add(self, row: Float16) -> bool:
        """Take in a row [N, C] if all of its values are finite, and say whether they are."""
        for task in self.tasks(row):
            task()
        return self.take(row)

    def result(self) -> tuple[Moments | None, Moments]:
        """Return the moments of prefix (None without) and patch tokens of all rows taken in."""
        *prefix, patch = [accumulator.moments() for accumulator in self._accumulators]
        return (prefix[0] if prefix else None), patch

    def _measure(self, row: Float16, part: int, number: int) -> None:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch(row.shape[1])
        self._found[part][number] = Piece.of(row[self._pieces[part][number]], self._local.scratch)


class Scratch:
    """Memory to measure pieces in; allocating it each time costs as much as a third of the work."""

    def __init__(self, channels: int) -> None:
        self.single = np.empty((BLOCK_TOKENS, channels), np.float32)
        self.double = np.empty((BLOCK_TOKENS, channels), np.float64)


@dataclass(frozen=True)
class Piece:
    """What is found in one go over some tokens.

    No reference is subtracted. Values and squares of float16 are exact in float64, and their sums round only where
    values of very different size meet, which makes the variance large; so nothing is lost as long as the difference
    `sum of squares - mean * sum` is taken exactly, which `Accumulator.moments` does.

    Attributes:
        count: tokens.
        sums: float64 [2, channel], of values and of squares, of finite values.
        signed_max, unsigned_max: of the bits taken as int16 and as uint16 [channel].
    """

    count: int
    sums: Float64
    signed_max: npt.NDArray[np.int16]
    unsigned_max: npt.NDArray[np.uint16]

    @classmethod
    def of(cls, tokens: Float16, scratch: Scratch) -> "Piece":
        """Return what there is to know of tokens [N, C], N >= 1."""
        signed, unsigned = tokens.view(np.int16), tokens.view(np.uint16)
        sums = np.zeros((2, tokens.shape[1]))
        signed_max, unsigned_max = signed[0].copy(), unsigned[0].copy()
        for start in range(0, len(tokens), BLOCK_TOKENS):
            block = slice(start, start + BLOCK_TOKENS)
            np.maximum(signed_max, signed[block].max(axis=0), out=signed_max)
            np.maximum(unsigned_max, unsigned[block].max(axis=0), out=unsigned_max)
            values = _scaled(signed[block], scratch)
            sums[0] += values.sum(axis=0)
            sums[1] += np.einsum("nc,nc->c", values, values)
        sums *= [[SCALE], [SCALE**2]]
        return cls(len(tokens), sums, signed_max, unsigned_max)


def _scaled(bits: npt.NDArray[np.int16], scratch: Scratch) -> Float64:
    """Return finite float16 divided by `SCALE` as float64, exactly, in `scratch`; a third faster than numpy converts.

    The bits are moved to where float32 has them. Its exponent counts from -127 and that of float16 from -15, hence the
    scale; squares of the result are still far from the ends of float64.
    """
    single, double = scratch.single[: len(bits)], scratch.double[: len(bits)]
    wide = single.view(np.int32)
    np.copyto(wide, bits)  # extends the sign over the high bits
    np.left_shift(wide, 13, out=wide)
    np.bitwise_and(wide, -0x70002000, out=wide)  # keeps sign, 5 exponent and 10 fraction bits
    np.copyto(double, single)
    return double


@dataclass(frozen=True)
class Extremes:
    """Per-channel extremes of float16 tokens.

    Attributes:
        low, high: int16 [channel], float16 bits turned so that they compare as their values do (`_turned`).
    """

    low: npt.NDArray[np.int16]
    high: npt.NDArray[np.int16]

    @classmethod
    def of(cls, tokens: Float16, pieces: Sequence[Piece]) -> "Extremes":
        """Return the extremes of tokens [N, C], N >= 1, that were measured in pieces.

        Among non-negative values larger bits are larger values; among negative ones (sign bit set) they are smaller. So
        the largest bits suffice for channels that have both, and only the others need a look at the tokens.
        """
        high = np.max([piece.signed_max for piece in pieces], axis=0)
        low = np.max([piece.unsigned_max for piece in pieces], axis=0)
        _set_least(high, tokens.view(np.int16), high < 0)
        _set_least(low, tokens.view(np.uint16), low < 0x8000)
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


class Accumulator:
    """Moments of tokens given in measured pieces."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = np.zeros((2, channels))
        self._extremes: Extremes | None = None

    def take(self, pieces: Sequence[Piece], extremes: Extremes) -> None:
        """Take in finite tokens by their pieces and the extremes of all of them."""
        self._count += sum(piece.count for piece in pieces)
        self._sums += np.sum([piece.sums for piece in pieces], axis=0)
        self._extremes = extremes if self._extremes is None else self._extremes.union(extremes)

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
