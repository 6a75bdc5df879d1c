"""Small codes of tokens that have a spectrum, means and a heavy tail, as teachers' tokens do."""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import store
from store.format.calibration_sample import CalibrationSample
from store.format.code import Code
from store.format.code_encode import Encoder
from store.format.code_fit import fit_code
from tests.train.builders import Seer, build_cache

GRID = (6, 6)
SIZE_PX, CELL_PX, CELLS = 56, 14, (4, 4)  # of the small caches


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
    return np.asarray(centred + means * centred.std((0, 1)) * signs, np.float16)


def fit(tokens: np.ndarray, *, ratio: float, prefix: int, grid: tuple[int, int] = GRID) -> Code:
    """Fit a code to tokens of images that are rows 0, 1, ..."""
    sample = CalibrationSample(tokens=tokens, rows=np.arange(len(tokens)), prefix_tokens=prefix, patch_grid=grid)
    return fit_code(sample, ratio=ratio)


def encode(code: Code, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the codes uint8 (rows, row bytes)."""
    return Encoder(code).encode(tokens, rows)[0]


def rich_colours(pixels: np.ndarray, *, prefix: int, channels: int) -> np.ndarray:
    """Tokens that depend on all of a patch, with a spectrum and a mean, so that they need a code of many components."""
    count, side = len(pixels), CELLS[0]
    cells = pixels.reshape(count, side, CELL_PX, side, CELL_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    means = cells.reshape(count, side * side, 7, 2, 7, 2, 3).mean(axis=(3, 5)).reshape(count, side * side, -1)
    weights = np.random.default_rng(channels).normal(size=(means.shape[-1], channels))
    patches = np.tanh((means / 255 - 0.5) @ (weights / (1 + 0.1 * np.arange(channels)))) * 4 + 3
    tokens = np.concatenate([patches.mean(axis=1, keepdims=True)] * prefix + [patches], axis=1)
    return tokens.astype(np.float16)


SEERS = {
    "alpha": Seer(prefix=1, channels=24, groups=("people",), see=partial(rich_colours, prefix=1, channels=24)),
    "beta": Seer(prefix=0, channels=32, groups=("scenes",), see=partial(rich_colours, prefix=0, channels=32)),
}


@cache
def code_of(teacher: str, *, ratio: float, seed: int = 0) -> Code:
    """The code of a teacher of `SEERS`, fitted to its tokens of random images."""
    pixels = np.random.default_rng([99, seed]).integers(0, 256, (48, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    seer = SEERS[teacher]
    return fit(seer.see(pixels), ratio=ratio, prefix=seer.prefix, grid=CELLS)


def build_coded(location: Path, ratios: Mapping[str, float], **options: Any) -> store.Cache:
    """Build a cache of `SEERS` whose teachers named in `ratios` are stored in codes."""
    codes = {name: code_of(name, ratio=ratio) for name, ratio in ratios.items()}
    return build_cache(location, teachers=SEERS, size_px=SIZE_PX, codes=codes, **options)
