"""Rows of a cache's real shapes with known content, and the buffers that they are read into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

PIXELS = "pixels"
DISTINCT_ROWS = 61  # prime, so that rows mixed up by a power of two differ
Buffers = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Description of one array.

    Attributes:
        shape: shape of a row.
        dtype: data type of its values.
        prefix_tokens, patch_grid: layout of a teacher's tokens.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    prefix_tokens: int = 0
    patch_grid: tuple[int, int] = (0, 0)

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def _tokens(prefix: int, side: int, channels: int) -> ArraySpec:
    shape = (prefix + side * side, channels)
    return ArraySpec(shape=shape, dtype=np.dtype(np.float16), prefix_tokens=prefix, patch_grid=(side, side))


def _pixels(size: int) -> ArraySpec:
    return ArraySpec(shape=(size, size, 3), dtype=np.dtype(np.uint8))


def specs(*, small: bool) -> dict[str, ArraySpec]:
    """Return the arrays of DUNE at 336 px (DINOv2 with its CLS token), or the same in small for tests."""
    side, channels, size = (4, 32, 56) if small else (24, 1024, 336)
    teachers = {"dinov2": 1, "mast3r": 0, "multihmr": 0}
    return {PIXELS: _pixels(size)} | {name: _tokens(prefix, side, channels) for name, prefix in teachers.items()}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows to store and read.

    Attributes:
        count: number of rows.
        shard_rows: rows of a shard.
        arrays: arrays by name, `pixels` first.
    """

    count: int
    shard_rows: int
    arrays: Mapping[str, ArraySpec]
    _values: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of all arrays."""
        return sum(spec.row_bytes for spec in self.arrays.values())

    def only(self, name: str, *, count: int) -> "Rows":
        """Return `count` rows of one array; the values are shared."""
        return replace(self, count=count, arrays={name: self.arrays[name]})

    def row(self, name: str, row: int) -> npt.NDArray[Any]:
        """Return one row of an array; not to be changed."""
        if name not in self._values:
            self._values[name] = _random_rows(self.arrays[name], seed=self.names.index(name))
        return self._values[name][row % DISTINCT_ROWS]

    def data(self, name: str, row: int) -> memoryview:
        """Return the bytes of one row of an array."""
        values: Any = self.row(name, row)
        return memoryview(values).cast("B")

    def shards(self) -> list[range]:
        """Return the rows of each shard."""
        starts = range(0, self.count, self.shard_rows)
        return [range(start, min(start + self.shard_rows, self.count)) for start in starts]

    def buffers(self, batch: int) -> Buffers:
        """Return arrays for `batch` rows, in memory that is already allocated."""
        return {name: np.ones((batch, *spec.shape), spec.dtype) for name, spec in self.arrays.items()}

    def check(self, rows: Sequence[int] | npt.NDArray[Any], out: Buffers) -> None:
        """Compare the rows read with those written.

        Raises:
            AssertionError: a row differs.
        """
        for name in self.arrays:
            for position, row in enumerate(rows):
                if not np.array_equal(out[name][position], self.row(name, int(row))):
                    raise AssertionError(f"row {row} of '{name}' is not the row that was written")


def _random_rows(spec: ArraySpec, *, seed: int) -> list[npt.NDArray[Any]]:
    generator = np.random.default_rng(seed)
    if spec.dtype == np.uint8:
        return [generator.integers(0, 256, spec.shape, dtype=np.uint8) for _ in range(DISTINCT_ROWS)]
    return [generator.standard_normal(spec.shape, np.float32).astype(spec.dtype) for _ in range(DISTINCT_ROWS)]
