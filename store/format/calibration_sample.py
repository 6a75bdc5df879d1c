"""The tokens that a code is fitted to, and what it takes from them: means, deviations and the basis of components.

Everything is computed in float64. Linear algebra differs between machines in the last bits, so the arrays of a code are
the truth, not the sample.

Legend: I images, N tokens, P prefix tokens, C channels (also components).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from store import errors
from store.format.code import MIN_STD

Basis = Literal["pca", "rotation"]
Float16 = npt.NDArray[np.float16]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationSample:
    """Tokens of images, one row each.

    Attributes:
        tokens: float16 [I, N, C], finite.
        rows: int64 [I], their row numbers.
        prefix_tokens: P.
        patch_grid: (rows, cols) of patches; N is P + rows * cols.
    """

    tokens: Float16
    rows: Int64
    prefix_tokens: int
    patch_grid: tuple[int, int]

    def __post_init__(self) -> None:
        count = self.prefix_tokens + self.patch_grid[0] * self.patch_grid[1]
        shape = self.tokens.shape
        if self.tokens.dtype != np.float16 or len(shape) != 3 or shape[:2] != (len(self.rows), count):
            found = f"{self.tokens.dtype} {list(shape)}"
            message = f"calibration tokens are {found}, expected float16 [{len(self.rows)}, {count}, channels]"
            raise errors.InvalidInput(message)

    @property
    def images(self) -> int:
        """Return I."""
        return len(self.rows)

    @property
    def channels(self) -> int:
        """Return C."""
        return int(self.tokens.shape[2])

    @property
    def patch_tokens(self) -> int:
        """Return the number of patch tokens of all images."""
        return self.images * self.patch_grid[0] * self.patch_grid[1]

    def half(self, number: int) -> "CalibrationSample":
        """Return every second image, from image 0 or 1 on: two halves that share none."""
        part = slice(number, None, 2)
        return CalibrationSample(
            tokens=self.tokens[part],
            rows=self.rows[part],
            prefix_tokens=self.prefix_tokens,
            patch_grid=self.patch_grid,
        )

    def of_kind(self, kind: int, *, most: int | None = None) -> Iterator[tuple[int, Float16]]:
        """Yield (row number, tokens float16 [n, C]) of each image.

        Args:
            kind: type of the tokens.
            most: of all images together, about; None means all. Fewer are taken at equal distances.
        """
        split = self.prefix_tokens
        each = self.tokens.shape[1] - split
        step = 1 if most is None else max(1, self.images * each // most)
        for index, (row, tokens) in enumerate(zip(self.rows.tolist(), self.tokens, strict=True)):
            yield row, tokens[:split] if kind == 0 else tokens[split + index % step :: step]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenMoments:
    """Sums of the tokens of a type, which add up over samples.

    Attributes:
        count: number of tokens.
        sums: float64 [C].
        products: float64 [C, C], sum of outer products.
    """

    count: int
    sums: Float64
    products: Float64

    @classmethod
    def of(cls, sample: CalibrationSample, kind: int, *, products: bool) -> "TokenMoments":
        """Return the sums of the tokens of a type; products only of equal channels if `products` is False."""
        count, sums = 0, np.zeros(sample.channels)
        result = np.zeros((sample.channels, sample.channels))
        for _, tokens in sample.of_kind(kind):
            wide = tokens.astype(np.float64)
            count += len(wide)
            sums += wide.sum(axis=0)
            if products:
                result += wide.T @ wide
            else:
                result[np.diag_indices(sample.channels)] += np.square(wide).sum(axis=0)
        return cls(count=count, sums=sums, products=result)

    def __add__(self, other: "TokenMoments") -> "TokenMoments":
        return TokenMoments(
            count=self.count + other.count, sums=self.sums + other.sums, products=self.products + other.products
        )

    @property
    def mean(self) -> Float64:
        """Return the mean, float64 [C]; zeros without tokens."""
        return self.sums / max(self.count, 1)

    @property
    def covariance(self) -> Float64:
        """Return the population covariance, float64 [C, C]."""
        return self.products / max(self.count, 1) - np.outer(self.mean, self.mean)

    @property
    def std(self) -> Float64:
        """Return the standard deviation, float64 [C], at least 1e-3 as targets have it; ones without tokens."""
        if not self.count:
            return np.ones_like(self.sums)
        return np.maximum(np.sqrt(np.maximum(np.diag(self.covariance), 0)), MIN_STD)


def principal_components(moments: TokenMoments) -> tuple[Float64, Float64]:
    """Return (variances descending [C], basis [component, channel]) of standardised tokens, signs fixed."""
    std = moments.std
    values, vectors = np.linalg.eigh(moments.covariance / np.outer(std, std))
    basis = np.ascontiguousarray(vectors.T[::-1])
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    return np.maximum(values[::-1], 0.0), basis * np.where(largest < 0, -1.0, 1.0)


def random_rotation(size: int, rng: np.random.Generator) -> Float64:
    """Return a random orthogonal matrix [size, size]: QR of normal numbers, diagonal of the triangle positive."""
    orthogonal, triangle = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(orthogonal * np.where(np.diag(triangle) < 0, -1.0, 1.0))
