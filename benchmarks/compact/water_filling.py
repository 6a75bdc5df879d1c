"""The control that must lose: least squared error for its bytes, by PCA and reverse water-filling.

Tokens are standardised and turned into principal components; a component gets bits while a bit lowers the error most
there, and is quantised by Lloyd and Max's quantiser of a Gaussian. Components without bits are dropped, coarse ones
shrink: both are best for the squared error, and both are a bias that a student can never unlearn.

Shapes: N tokens, C channels (also components).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from store.format.calibration_sample import TokenMoments, principal_components

MOST_BITS = 8
SWEEPS = 4000  # of Lloyd's iteration; 256 levels need the most

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@cache
def lloyd_max(bits: int) -> tuple[tuple[float, ...], float]:
    """Return the 2**bits levels of the best quantiser of a Gaussian of unit variance, ascending, and its error."""
    levels = ndtri((np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(SWEEPS):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        masses = np.diff(ndtr(edges))
        densities = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
        levels = -np.diff(densities) / masses  # the mean of each cell
    return tuple(levels.tolist()), float(1 - (masses * levels**2).sum())


def bits_of(variances: Float64, total_bits: int) -> Int64:
    """Return the bits of each component: one after the other goes where it lowers the squared error most."""
    errors = np.array([1.0, *(lloyd_max(bits)[1] for bits in range(1, MOST_BITS + 1))])
    gains = np.append(errors[:-1] - errors[1:], 0.0)
    bits = np.zeros(len(variances), np.int64)
    for _ in range(total_bits):
        bits[np.argmax(variances * gains[bits])] += 1
    return bits


@dataclass(frozen=True, kw_only=True, eq=False)
class WaterFilling:
    """A quantiser of tokens.

    Attributes:
        mean, std: float32 [C].
        basis: float32 [component, channel], orthonormal.
        deviations: float32 [C], of the components.
        bits: int64 [C].
    """

    mean: Float32
    std: Float32
    basis: Float32
    deviations: Float32
    bits: Int64

    def decoded(self, tokens: Float16) -> tuple[Float32, Float32]:
        """Return (standardised true tokens, the same after quantisation), both float32 [N, C], of tokens [N, C]."""
        true = np.asarray((tokens.astype(np.float32) - self.mean) / self.std)
        components = true @ self.basis.T
        quantised = np.zeros_like(components)
        for bits in np.unique(self.bits[self.bits > 0]).tolist():
            columns = self.bits == bits
            levels = np.array(lloyd_max(bits)[0], np.float32)
            values = components[:, columns] / self.deviations[columns]
            nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
            quantised[:, columns] = levels[nearest] * self.deviations[columns]
        return true, np.asarray(quantised @ self.basis)

    def as_tokens(self, standardised: Float32) -> Float16:
        """Return standardised tokens as float16 tokens."""
        return (standardised * self.std + self.mean).astype(np.float16)


def fit(moments: Sequence[TokenMoments], *, token_bytes: int) -> WaterFilling:
    """Fit a quantiser that spends at most `token_bytes` on a token; of two scales that any code needs it has none.

    Args:
        moments: sums of tokens of all groups, with products.
        token_bytes: bytes of a token.
    """
    total = moments[0]
    for part in moments[1:]:
        total = total + part
    variances, basis = principal_components(total)
    return WaterFilling(
        mean=total.mean.astype(np.float32),
        std=total.std.astype(np.float32),
        basis=basis.astype(np.float32),
        deviations=np.sqrt(np.maximum(variances, 1e-12)).astype(np.float32),
        bits=bits_of(variances, 8 * token_bytes),
    )
