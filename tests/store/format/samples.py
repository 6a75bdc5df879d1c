"""Made-up tokens to calibrate codes with."""

import numpy as np

from store.format.calibration_sample import CalibrationSample


def sample_of(tokens: np.ndarray, *, prefix_tokens: int, patch_grid: tuple[int, int]) -> CalibrationSample:
    """A sample of tokens [images, N, C], on rows that are far apart."""
    return CalibrationSample(
        tokens=tokens.astype(np.float16),
        rows=np.arange(len(tokens)) * 5 + 3,
        prefix_tokens=prefix_tokens,
        patch_grid=patch_grid,
    )


def gaussian(images: int, channels: int, *, patch_grid: tuple[int, int], prefix_tokens: int = 0) -> CalibrationSample:
    """Tokens of independent channels of other sizes and means."""
    rng = np.random.default_rng(11)
    tokens = rng.standard_normal((images, prefix_tokens + patch_grid[0] * patch_grid[1], channels))
    sizes = np.exp(rng.standard_normal(channels))
    return sample_of(tokens * sizes + 3 * sizes, prefix_tokens=prefix_tokens, patch_grid=patch_grid)


def correlated(images: int, channels: int, *, patch_grid: tuple[int, int], power: float = 1.8) -> np.ndarray:
    """Tokens [images, N, C] float64 whose components have variances i ** -power."""
    rng = np.random.default_rng(12)
    rotation, _ = np.linalg.qr(rng.standard_normal((channels, channels)))
    deviations = np.arange(1.0, channels + 1) ** (-power / 2)
    return rng.standard_normal((images, patch_grid[0] * patch_grid[1], channels)) * deviations @ rotation
