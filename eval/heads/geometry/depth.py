"""Depth of one view from several predictions of it, and depth at pixels.

Shapes: K predictions, H W pixels, M pixels. Source: the protocol of DUSt3R for multi-view depth; how predictions are
brought to one scale is not published, see `fused_depth`.
"""

import numpy as np

from store.errors import InvalidInput


def fused_depth(depths: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Average K predicted depths of one view, weighted with their confidences.

    Each prediction is first multiplied by the ratio of the medians of the first one and of itself. Depths that are not
    finite or not above 0 do not count.

    Args:
        depths: (K, H, W), for example the z of the points of view 1 in its pairs with K other views.
        confidences: (K, H, W), above 0.

    Returns:
        float64 (H, W), 0 where no prediction counts.

    Raises:
        InvalidInput: other shapes, or a prediction of which nothing counts.
    """
    maps, weights = np.asarray(depths, dtype=np.float64), np.asarray(confidences, dtype=np.float64)
    if maps.ndim != 3 or not maps.size or weights.shape != maps.shape:
        raise InvalidInput(f"depths {maps.shape}, confidences {weights.shape}: expected both (K, H, W)")
    with np.errstate(invalid="ignore"):
        known = np.isfinite(maps) & (maps > 0) & np.isfinite(weights) & (weights > 0)
    empty = np.flatnonzero(~known.any(axis=(1, 2)))
    if len(empty):
        raise InvalidInput(f"depth {empty[0]} of {len(maps)}: no pixel is finite and above 0 with a confidence above 0")
    medians = np.array([np.median(one[mask]) for one, mask in zip(maps, known, strict=True)])
    scaled = np.where(known, maps, 0.0) * (medians[0] / medians)[:, None, None]
    weights = np.where(known, weights, 0.0)
    total = weights.sum(axis=0)
    joined = (weights * scaled).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.asarray(joined)


def depth_at(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the depth (M,) of a map (H, W) at pixels (M, 2), cut to integers; 0 outside and where it is not finite."""
    height, width = depth.shape
    finite = np.nan_to_num(np.asarray(pixels, dtype=np.float64), nan=-1.0, posinf=-1.0, neginf=-1.0)
    x, y = np.trunc(np.clip(finite, -1.0, max(height, width))).T.astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.where(inside & np.isfinite(values), values, 0.0)
