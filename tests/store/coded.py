"""Codes for made-up tokens, and small caches that are stored in them."""

from functools import cache

import numpy as np

from store.format.calibration_sample import CalibrationSample
from store.format.code import Code
from store.format.code_fit import fit_code

PATCH_GRID = (4, 4)
PREFIX_TOKENS = 1
CHANNELS = 8
RATIO = 4.0
SAMPLE_ROWS = 400
IDENTITY = {"model": "tiny", "weights": "abc"}


def tokens_of(row: int, name: str = "t") -> np.ndarray:
    """Return the true tokens of a row, float16 [17, 8], with channels of different size and mean."""
    shape = (PREFIX_TOKENS + PATCH_GRID[0] * PATCH_GRID[1], CHANNELS)
    values = np.random.default_rng([2, row, *name.encode()]).standard_normal(shape)
    return (values * np.linspace(0.5, 4, CHANNELS) + np.arange(CHANNELS)).astype(np.float16)


@cache
def code(ratio: float = RATIO, seed: int = 1) -> Code:
    """Return a code fitted to tokens of other rows."""
    rows = np.arange(10_000, 10_000 + SAMPLE_ROWS)
    sample = CalibrationSample(
        tokens=np.stack([tokens_of(int(row)) for row in rows]),
        rows=rows,
        prefix_tokens=PREFIX_TOKENS,
        patch_grid=PATCH_GRID,
    )
    return fit_code(sample, ratio=ratio, seed=seed)
