"""Which patch tokens of a row are stored where not all are: some of every 2 x 2 cell, a function of the row number.

Every patch has the same probability, so the mean loss over those stored is unbiased for the mean over all.

Legend: B rows, K stored patches of a row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.common.stateless_random import GOLDEN, mix
from store.common.strict_json import Fields

CELL = (2, 2)
CELL_PATCHES = 4
PAIRS = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TokenSubset:
    """How many patches of each cell are stored, and the key of the choice.

    Attributes:
        cell: patches of a cell, (rows, cols).
        kept: patches stored of each cell, 1 to 3.
        key: 64 bits that the choice depends on besides the row and the cell.
    """

    cell: tuple[int, int] = CELL
    kept: int
    key: int

    def count(self, patch_grid: tuple[int, int]) -> int:
        """Return K, the stored patches of a row.

        Raises:
            errors.InvalidInput: a side of the grid is odd.
        """
        check_even(patch_grid)
        return patch_grid[0] * patch_grid[1] // CELL_PATCHES * self.kept

    def stored(self, rows: npt.NDArray[Any], patch_grid: tuple[int, int]) -> Int64:
        """Return the numbers of the stored patches of each row, int64 [B, K], ascending.

        Args:
            rows: row numbers [B].
            patch_grid: (rows, cols) of patches, both even.

        Raises:
            errors.InvalidInput: a side of the grid is odd.
        """
        check_even(patch_grid)
        down, across = patch_grid[0] // 2, patch_grid[1] // 2
        cells = np.arange(down * across, dtype=np.uint64)
        numbers = np.asarray(rows).astype(np.uint64)[:, None] * np.uint64(len(cells)) + cells + np.uint64(1)
        positions = self._positions(mix(np.uint64(self.key) + numbers * np.uint64(GOLDEN)))
        corner = (np.arange(down)[:, None] * 2 * patch_grid[1] + np.arange(across) * 2).reshape(-1, 1)
        patches = corner + positions // 2 * patch_grid[1] + positions % 2
        return np.sort(patches.reshape(len(patches), -1), axis=1)

    def _positions(self, hashed: npt.NDArray[np.uint64]) -> Int64:
        """Return the positions in each cell [..., kept], from 64 random bits a cell."""
        first = (hashed >> np.uint64(62)).astype(np.int64)
        if self.kept == 1:
            return first[..., None]
        if self.kept == 2:
            return np.asarray(PAIRS[((hashed >> np.uint64(32)) * np.uint64(6)) >> np.uint64(32)])
        return np.asarray(OTHERS[first])

    def as_attributes(self) -> dict[str, Any]:
        """Return the subset as the attributes of `codes` have it."""
        return {"cell": list(self.cell), "kept": self.kept, "key": f"{self.key:016x}"}

    @classmethod
    def of(cls, fields: Fields) -> "TokenSubset":
        """Check the attributes of a subset.

        Raises:
            errors.Damaged: one is absent, of another type or out of bounds.
        """
        if fields.integers("cell", low=1, high=CELL_PATCHES, lengths=range(2, 3)) != CELL:
            raise fields.invalid("cell", str(list(CELL)))
        kept = fields.integer("kept", low=1, high=CELL_PATCHES - 1)
        return cls(kept=kept, key=int(fields.hexadecimal("key", digits=16), 16))


def is_even(patch_grid: tuple[int, int]) -> bool:
    """Return whether 2 x 2 cells cover a patch grid."""
    return patch_grid[0] % 2 == 0 and patch_grid[1] % 2 == 0


def check_even(patch_grid: tuple[int, int]) -> None:
    """Check that 2 x 2 cells cover a patch grid.

    Raises:
        errors.InvalidInput: a side is odd.
    """
    if not is_even(patch_grid):
        grid = f"{patch_grid[0]} x {patch_grid[1]} patches"
        raise errors.InvalidInput(f"{grid} cannot be stored in part: cells of 2 x 2 need even sides. Use a lower ratio")
