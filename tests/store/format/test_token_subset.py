"""Which patches are stored: as the format says it, in whole numbers of Python, and fair to every patch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import errors
from store.format.token_subset import PAIRS, TokenSubset

GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def stored_by_the_document(row: int, grid: tuple[int, int], *, kept: int, key: int) -> list[int]:
    """Patches of a row, read off the definition of the format."""
    cells, patches = grid[0] * grid[1] // 4, []
    for cell in range(cells):
        h = (key + (row * cells + cell + 1) * GOLDEN) & MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & MASK
        h ^= h >> 31
        first = h >> 62
        pair = PAIRS[((h >> 32) * 6) >> 32].tolist()
        positions = {1: [first], 2: pair, 3: [p for p in range(4) if p != first]}[kept]
        top, left = cell // (grid[1] // 2) * 2, cell % (grid[1] // 2) * 2
        patches += [(top + p // 2) * grid[1] + left + p % 2 for p in positions]
    return sorted(patches)


@settings(max_examples=40, deadline=None)
@given(
    row=st.integers(0, 2**31 - 1),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda sides: (2 * sides[0], 2 * sides[1])),
    kept=st.integers(1, 3),
    key=st.integers(0, MASK),
)
def test_patches_are_those_that_the_format_defines(row: int, grid: tuple[int, int], kept: int, key: int) -> None:
    subset = TokenSubset(kept=kept, key=key)
    stored = subset.stored(np.array([row, 5]), grid)
    assert stored.shape == (2, subset.count(grid))
    assert stored[0].tolist() == stored_by_the_document(row, grid, kept=kept, key=key)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_every_patch_is_stored_equally_often_and_pairs_are_fair(kept: int) -> None:
    rows, grid = 6000, (4, 6)
    stored = TokenSubset(kept=kept, key=123).stored(np.arange(rows), grid)
    present = np.zeros((rows, 24))
    np.put_along_axis(present, stored, 1, axis=1)
    share = kept / 4
    tolerance = 4.5 * np.sqrt(share * (1 - share) / rows)
    assert np.abs(present.mean(axis=0) - share).max() < tolerance
    together = present.T @ present / rows
    same_cell, other_cell = together[0, [1, 6, 7]], together[0, 2:6]
    assert np.abs(same_cell - share * (kept - 1) / 3).max() < tolerance
    assert np.abs(other_cell - share**2).max() < tolerance


def test_odd_grids_are_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="15 x 16 patches cannot be stored in part"):
        TokenSubset(kept=2, key=1).stored(np.arange(2), (15, 16))
