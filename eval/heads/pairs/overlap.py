"""Pixels of two views that show the same point: each projected into the other view, kept if the two agree.

No depth test is needed: where something hides a point the way back ends at another pixel. Shapes: H W pixels.
"""

import numpy as np

from eval.heads.pairs.geometry import project, transform
from eval.heads.pairs.views import View


def mutual_pixels(view1: View, view2: View, *, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels that two views have in common.

    Args:
        view1: first view.
        view2: second view.
        stride: looks at every `stride`-th row and column of view 1 only.

    Returns:
        (pixels of view 1, pixels of view 2), int64 (M, 2) as x, y; both with known depth.
    """
    rows, columns = np.mgrid[: view1.size[1] : stride, : view1.size[0] : stride]
    known = view1.valid[::stride, ::stride]
    start = np.stack([columns, rows], axis=-1)[known]
    there, inside = _nearest_pixels(_points_at(view1, start), view2)
    start, there = start[inside], there[inside]
    seen = view2.valid[there[:, 1], there[:, 0]]
    start, there = start[seen], there[seen]
    back, inside = _nearest_pixels(_points_at(view2, there), view1)
    agree = inside & (back == start).all(axis=1)
    return start[agree], there[agree]


def _points_at(view: View, pixels: np.ndarray) -> np.ndarray:
    """Return the points of the world, float64 (M, 3), that pixels (M, 2) of a view show."""
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(view.intrinsics).T
    points = rays * view.depthmap[pixels[:, 1], pixels[:, 0], None]
    return transform(view.camera_pose, points)


def _nearest_pixels(points: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels nearest to projected points, int64 (M, 2), and which of them are in the image."""
    pixels, depth = project(points, view)
    rounded = np.rint(np.nan_to_num(np.clip(pixels, -1e6, 1e6))).astype(np.int64)
    inside = (depth > 0) & (rounded >= 0).all(axis=1) & (rounded < view.size).all(axis=1)
    return np.where(inside[:, None], rounded, 0), inside
