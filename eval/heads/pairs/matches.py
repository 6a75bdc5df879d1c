"""Corresponding pixels of the views of a pair, as `eval.heads.mast3r.correspondences` finds them."""

import numpy as np

from eval.heads.mast3r.correspondences import COUNT, Correspondences, PosedView, draw, mutual_pixels
from eval.heads.pairs.geometry import resized_intrinsics, world_points
from eval.heads.pairs.resize import resize_nearest
from eval.heads.pairs.views import Pair, View


def posed(view: View) -> PosedView:
    """Return a view's points, pose and camera."""
    return PosedView(points=world_points(view), valid=view.valid, pose=view.camera_pose, intrinsics=view.intrinsics)


def draw_matches(pair: Pair, rng: np.random.Generator, *, count: int = COUNT) -> Correspondences:
    """Draw exactly `count` pixel pairs, half of them negatives where possible; raises as `draw`."""
    return draw(posed(pair[0]), posed(pair[1]), rng, count=count)


def common_pixels(pair: Pair, *, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return corresponding pixels of two views, found on depth maps reduced to a long side.

    Returns:
        float64 (M, 2) for each view, in pixels of the whole view.
    """
    factors = [max(1.0, max(view.size) / long_side) for view in pair]
    small = [_reduced(view, factor) for view, factor in zip(pair, factors, strict=True)]
    first, second = mutual_pixels(small[0], small[1], clip=False)
    return (first + 0.5) * factors[0] - 0.5, (second + 0.5) * factors[1] - 0.5


def _reduced(view: View, factor: float) -> PosedView:
    size = max(1, round(view.size[0] / factor)), max(1, round(view.size[1] / factor))
    scale = size[0] / view.size[0], size[1] / view.size[1]
    depth, valid = resize_nearest(view.depthmap, size), resize_nearest(view.valid, size)
    intrinsics = resized_intrinsics(view.intrinsics, scale)
    points = world_points(view, depth=depth, intrinsics=intrinsics)
    return PosedView(points=points, valid=valid, pose=view.camera_pose, intrinsics=intrinsics)
