"""What a code does to tokens: sums that merge, and what follows from them (noise, slope, cosine, floors of a loss).

All is measured between true tokens z and decoded ones z_hat, both standardised per channel by the code's own mean and
standard deviation, float32, before decoded ones are rounded to float16.

Legend: C channels; type 0 prefix tokens, 1 patch tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

BINS = 256  # of the cosine, over [-1, 1]
SLOPE_TOLERANCE = 0.05
CHANCE = 5.0  # standard deviations of the slope of few tokens
MAX_COUNT = 2.0**53
BLOCK_TOKENS = 64  # measured at a time: what a pass writes, the next one finds in the second-level cache

Kind = Literal["prefix", "patch"]
KINDS: tuple[Kind, Kind] = ("prefix", "patch")
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """Distortion of a set of stored tokens.

    Attributes:
        sums: float64 [2, 3, C]: of z z, z z_hat and z_hat z_hat by type and channel.
        cosine: int64 [2, 256]: histogram of the tokens' cosines of z and z_hat over [-1, 1].
        floor: float64 [2, 3]: number of tokens, sum of 1 - cosine, sum of smooth-L1 (mean over channels, beta 1).
    """

    sums: Float64
    cosine: Int64
    floor: Float64

    def tokens(self, kind: Kind) -> int:
        """Return the number of tokens."""
        return int(self.floor[_type(kind), 0])

    def noise(self, kind: Kind) -> float:
        """Return U: the variance of the noise over that of the tokens; NaN without tokens."""
        true, product, decoded = self.sums[_type(kind)].sum(axis=1)
        return _ratio(true - 2 * product + decoded, true)

    def slope(self, kind: Kind) -> float:
        """Return the slope of the regression of decoded on true values over all channels; NaN without tokens."""
        true, product, _ = self.sums[_type(kind)].sum(axis=1)
        return _ratio(product, true)

    def channel_slopes(self, kind: Kind) -> Float64:
        """Return the slope of each channel, float64 [C]; NaN where a channel has no variance."""
        true, product, _ = self.sums[_type(kind)]
        return np.asarray(np.divide(product, true, out=np.full_like(true, np.nan), where=true > 0))

    def worst_slope(self, kind: Kind) -> float:
        """Return the slope, of the channels', that is farthest from 1; NaN without tokens."""
        slopes = self.channel_slopes(kind)
        slopes = slopes[np.isfinite(slopes)]
        return float(slopes[np.abs(slopes - 1).argmax()]) if slopes.size else float("nan")

    def cosine_mean(self, kind: Kind) -> float:
        """Return the mean cosine of tokens; NaN without tokens."""
        return 1 - self.floors(kind)[0]

    def cosine_percentile(self, kind: Kind, percent: float) -> float:
        """Return a percentile of the tokens' cosines, to the width of a bin (1/128); NaN without tokens."""
        counts = self.cosine[_type(kind)]
        if not counts.any():
            return float("nan")
        running = np.concatenate([[0], np.cumsum(counts)])
        wanted = running[-1] * percent / 100
        place = min(int(np.searchsorted(running, wanted, side="right")) - 1, BINS - 1)
        while counts[place] == 0:  # percent is 100 and the last bins are empty
            place -= 1
        return float((place + (wanted - running[place]) / counts[place]) * 2 / BINS - 1)

    def floors(self, kind: Kind) -> tuple[float, float]:
        """Return the means of 1 - cosine and of smooth-L1 between decoded and true tokens; NaN without tokens."""
        tokens, cosine, smooth_l1 = self.floor[_type(kind)]
        return _ratio(cosine, tokens), _ratio(smooth_l1, tokens)

    def agrees(self, other: "Distortion", *, rtol: float = 1e-9) -> bool:
        """Return whether two computations of the same distortion agree: sums to `rtol`, counts exactly."""
        return bool(
            np.array_equal(self.cosine, other.cosine)
            and np.array_equal(self.floor[:, 0], other.floor[:, 0])
            and np.allclose(self.floor, other.floor, rtol=rtol, atol=0)
            and np.allclose(self.sums, other.sums, rtol=rtol, atol=rtol * np.abs(other.sums).max())
        )

    def problem(self) -> str:
        """Return why this cannot be the distortion of tokens and a code that fits them; empty if it can."""
        return self.contradiction() or next((text for kind in KINDS if (text := self.slope_problem(kind))), "")

    def contradiction(self) -> str:
        """Return why this cannot be the distortion of any tokens; empty if it can."""
        if not (np.isfinite(self.sums).all() and np.isfinite(self.floor).all()):
            return "sums are not finite"
        counts = self.floor[:, 0]
        if (counts < 0).any() or (counts != np.floor(counts)).any() or (counts > MAX_COUNT).any():
            return "numbers of tokens are not whole"
        if (self.cosine < 0).any() or (self.cosine.sum(axis=1) != counts).any():
            return "the histogram of cosines has another number of tokens"
        if (self.sums[:, [0, 2]] < 0).any() or (self.floor < 0).any():
            return "sums of squares are negative"
        if self.sums[counts == 0].any() or self.floor[counts == 0].any():
            return "sums without tokens"
        return ""

    def slope_problem(self, kind: Kind, *, tolerance: float = SLOPE_TOLERANCE) -> str:
        """Return why the slope is not that of a code that fits its tokens; few tokens may be farther from 1."""
        slope, noise = self.slope(kind), max(self.noise(kind), 0.0)
        if np.isnan(slope):
            return ""
        allowed = tolerance + CHANCE * np.sqrt(noise / (self.tokens(kind) * self.sums.shape[2]))
        if abs(slope - 1) <= allowed:
            return ""
        return f"the slope of {kind} tokens is {slope:.4f}, expected 1 +- {allowed:.3f}"


def empty(channels: int) -> Distortion:
    """Return the distortion of no token."""
    return Distortion(sums=np.zeros((2, 3, channels)), cosine=np.zeros((2, BINS), np.int64), floor=np.zeros((2, 3)))


def merge(parts: Sequence[Distortion]) -> Distortion:
    """Return the distortion of the tokens of all parts together; at least one part."""
    return Distortion(
        sums=np.sum([part.sums for part in parts], axis=0),
        cosine=np.sum([part.cosine for part in parts], axis=0),
        floor=np.sum([part.floor for part in parts], axis=0),
    )


def measure(true: Float32, decoded: Float32) -> tuple[Float64, Int64, Float64]:
    """Return sums float64 [3, C], histogram int64 [256] and floor float64 [3] of standardised tokens [N, C] of a type.

    The cosine with a vector of zeros is 0.
    """
    sums, of_tokens = np.zeros((3, true.shape[1])), np.empty((4, len(true)))
    scratch = np.empty((BLOCK_TOKENS, true.shape[1]), np.float32)
    for first in range(0, len(true), BLOCK_TOKENS):
        part = slice(first, first + BLOCK_TOKENS)
        z, z_hat = true[part], decoded[part]
        values = scratch[: len(z)]
        for place, (one, other) in enumerate(((z, z), (z, z_hat), (z_hat, z_hat))):
            np.multiply(one, other, out=values)
            sums[place] += values.sum(axis=0, dtype=np.float64)
            of_tokens[place, part] = values.sum(axis=1, dtype=np.float64)
        np.abs(np.subtract(z, z_hat, out=values), out=values)
        slope = np.minimum(values, 1)
        values -= slope / 2
        values *= slope
        of_tokens[3, part] = values.mean(axis=1, dtype=np.float64)
    squares, dots, decoded_squares, smooth_l1 = of_tokens
    norms = np.sqrt(squares * decoded_squares)
    cosines = np.clip(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0), -1, 1)
    floor = np.array([len(true), (1 - cosines).sum(), smooth_l1.sum()])
    return sums, np.bincount(cosine_bins(cosines), minlength=BINS), floor


def cosine_bins(cosines: Float64) -> Int64:
    """Return the bin of each cosine."""
    return np.minimum(((cosines + 1) * (BINS / 2)).astype(np.int64), BINS - 1)


def _type(kind: Kind) -> int:
    return KINDS.index(kind)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")
