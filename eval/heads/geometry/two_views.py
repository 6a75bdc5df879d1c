"""Relative pose of two views from the outputs of a pair model: matches, filters, solver.

Shapes: H W pixels, M matches. Pixels are (x, y) with centres at integers; poses map view 1 to view 2. Source: MASt3R;
the map-free benchmark's solvers. Which of them DUNE used is not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from eval.heads.geometry.depth import depth_at
from eval.heads.geometry.poses import PoseEstimate
from eval.heads.geometry.relative_pose import essential_pose, pnp_pose, with_metric_scale
from eval.heads.geometry.solvers import SolverName
from eval.heads.matching.canonical import FOCAL_BOUNDS, focal_from_points
from eval.heads.matching.reciprocal import BORDER_PX, away_from_border, both_ways
from store.errors import InvalidInput

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ViewMatches:
    """Matches of one pair.

    Attributes:
        pixels1: int64 (M, 2) in view 1.
        pixels2: int64 (M, 2) in view 2.
        points1: points of view 1 in its own frame, float32 (M, 3).
        confidence: float32 (M,).
    """

    pixels1: np.ndarray
    pixels2: np.ndarray
    points1: np.ndarray
    confidence: np.ndarray


def match_views(
    one: Outputs,
    two: Outputs,
    *,
    row: int = 0,
    subsample: int = 8,
    border_px: int = BORDER_PX,
    least_confidence: float = 0.0,
) -> ViewMatches:
    """Match two views by their descriptors, both ways, and leave out what lies at a border or is not confident.

    Args:
        one: outputs of the model for view 1, with `pts3d`.
        two: those for view 2.
        row: number of the pair in the batch.
        subsample: see `fast_reciprocal`.
        border_px: pixels nearer to a border are left out.
        least_confidence: so are matches of less confidence of their descriptors; localisation takes 1.001.

    Raises:
        InvalidInput: descriptors that are not finite.
    """
    conf1, conf2 = one["desc_conf"][row], two["desc_conf"][row]
    pixels1, pixels2, confidence = both_ways(one["desc"][row], two["desc"][row], conf1, conf2, subsample)
    kept = confidence >= least_confidence
    for pixels, conf in ((pixels1, conf1), (pixels2, conf2)):
        kept &= away_from_border(pixels, (conf.shape[0], conf.shape[1]), border_px=border_px)
    points = one["pts3d"][row].detach().float().cpu().numpy()
    pixels1, pixels2 = pixels1[kept], pixels2[kept]
    return ViewMatches(
        pixels1=pixels1,
        pixels2=pixels2,
        points1=points[pixels1[:, 1], pixels1[:, 0]],
        confidence=confidence[kept],
    )


def two_view_pose(
    matches: ViewMatches,
    intrinsics1: np.ndarray | None,
    intrinsics2: np.ndarray | None,
    *,
    method: Literal["pnp", "essential"] = "pnp",
    library: SolverName = "opencv",
    depths: tuple[np.ndarray, np.ndarray] | None = None,
) -> PoseEstimate:
    """Estimate the pose of view 2 in the frame of view 1.

    Args:
        matches: result of `match_views`.
        intrinsics1: (3, 3) of view 1, in px of the model's maps; needed for `essential`.
        intrinsics2: (3, 3) of view 2.
        method: `pnp`, from the points of view 1, in their unit; `essential`, from pixels alone, of length 1.
        library: whose solver is used.
        depths: depth (H, W) of both views, each in its own frame, in metres, which gives `essential` its scale.

    Returns:
        The pose; without one the reason. Its confidence is the number of inliers.

    Raises:
        InvalidInput: missing intrinsics, or an unknown method.
        MissingExtra: the library is not installed.
    """
    if method == "pnp":
        return pnp_pose(matches.points1, matches.pixels2, intrinsics2, library=library)
    if method != "essential":
        raise InvalidInput(f"method {method!r}: expected pnp or essential")
    pixels = matches.pixels1, matches.pixels2
    estimate = essential_pose(*pixels, intrinsics1, intrinsics2, library=library)
    if depths is None:
        return estimate
    depth1, depth2 = (depth_at(depth, xy) for depth, xy in zip(depths, pixels, strict=True))
    return with_metric_scale(estimate, *pixels, depth1, depth2, intrinsics1, intrinsics2)


def intrinsics_from_points(points: Tensor | np.ndarray) -> np.ndarray:
    """Estimate the intrinsics (3, 3) of a view from its points (H, W, 3) in its own frame: square pixels, centred.

    Raises:
        InvalidInput: see `focal_from_points`.
    """
    focal = focal_from_points(points, bounds=FOCAL_BOUNDS)
    return np.array([[focal, 0, points.shape[1] / 2], [0, focal, points.shape[0] / 2], [0, 0, 1]])
