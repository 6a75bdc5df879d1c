"""Small codes of tokens that have a spectrum, means and a heavy tail, as teachers' tokens do."""

import numpy as np

from store.format.calibration_sample import CalibrationSample
from store.format.code import Code
from store.format.code_encode import Encoder
from store.format.code_fit import fit_code

GRID = (6, 6)


def tokens_like_a_teachers(
    images: int, *, channels: int, prefix: int, grid: tuple[int, int] = GRID, means: float = 2.0, seed: int = 0
) -> np.ndarray:
    """Return float16 (images, prefix + patches, channels): correlated channels, means of `means` deviations."""
    basis = np.random.default_rng(channels).normal(size=(channels, channels)) / np.sqrt(channels)
    spread = 1.0 / np.sqrt(1 + np.arange(channels))
    generator = np.random.default_rng(seed)
    count = prefix + grid[0] * grid[1]
    noise = generator.normal(size=(images, count, channels)) * np.exp(0.3 * generator.normal(size=(images, count, 1)))
    centred = (noise * spread) @ basis
    signs = np.where(np.arange(channels) % 2, -1.0, 1.0)
    return (centred + means * centred.std((0, 1)) * signs).astype(np.float16)


def fit(tokens: np.ndarray, *, ratio: float, prefix: int, grid: tuple[int, int] = GRID) -> Code:
    """Fit a code to tokens of images that are rows 0, 1, ..."""
    sample = CalibrationSample(tokens=tokens, rows=np.arange(len(tokens)), prefix_tokens=prefix, patch_grid=grid)
    return fit_code(sample, ratio=ratio)


def encode(code: Code, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the codes uint8 (rows, row bytes)."""
    return Encoder(code).encode(tokens, rows)[0]
