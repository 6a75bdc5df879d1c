"""Relative pose of two views from matches: by the essential matrix, by points of the first view, and its scale.

Shapes: M matches. Pixels are (x, y) with centres at integers; poses map camera 0 to camera 1. Source: the solvers of
the map-free benchmark (Arnold et al., ECCV 2022; nianticlabs/map-free-reloc), and of MASt3R's localisation.
"""

from typing import Literal

import numpy as np

from eval.heads.geometry.poses import PoseEstimate, checked_matrix, checked_rows, no_pose, scattered
from eval.heads.geometry.solvers import RansacSettings, SolverName, on_unit_plane, solver
from store.errors import InvalidInput

FEWEST_FOR_ESSENTIAL = 5
FEWEST_FOR_PNP = 4
FARTHEST = 1000.0  # metres: a translation beyond is no answer
SCALE_TOLERANCE_M = 0.1

ESSENTIAL = RansacSettings(threshold_px=2.0)
MAPFREE_PNP = RansacSettings(threshold_px=3.0, iterations=1000)
LOCALISATION_PNP = RansacSettings(threshold_px=5.0)


def essential_pose(
    pixels0: np.ndarray,
    pixels1: np.ndarray,
    intrinsics0: np.ndarray | None,
    intrinsics1: np.ndarray | None,
    *,
    library: SolverName = "opencv",
    ransac: RansacSettings = ESSENTIAL,
) -> PoseEstimate:
    """Estimate rotation and direction of translation (length 1) from matched pixels.

    Args:
        pixels0: pixels of view 0, (M, 2); matches that are not finite are left out.
        pixels1: pixels of view 1.
        intrinsics0: (3, 3) of view 0.
        intrinsics1: (3, 3) of view 1.
        library: whose solver is used.
        ransac: settings of the search.

    Returns:
        The pose; without one the reason, for example too few matches.

    Raises:
        InvalidInput: missing or impossible intrinsics, other shapes, or numbers of pixels that differ.
        MissingExtra: the library is not installed.
    """
    cameras = checked_matrix(intrinsics0, name="view 0"), checked_matrix(intrinsics1, name="view 1")
    one, two = checked_rows(pixels0, 2, name="pixels of view 0"), checked_rows(pixels1, 2, name="pixels of view 1")
    kept = _finite(one, two)
    if kept.sum() < FEWEST_FOR_ESSENTIAL:
        return no_pose(len(one), _too_few(kept, FEWEST_FOR_ESSENTIAL))
    found = solver(library).essential(one[kept], two[kept], *cameras, ransac)
    if found is None:
        return no_pose(len(one), f"no essential matrix agrees with the {kept.sum()} matches")
    rotation, direction, inliers = found
    return PoseEstimate(
        rotation=rotation,
        translation=direction,
        inliers=scattered(kept, inliers),
        confidence=float(inliers.sum()),
    )


def pnp_pose(
    points0: np.ndarray,
    pixels1: np.ndarray,
    intrinsics1: np.ndarray | None,
    *,
    library: SolverName = "opencv",
    ransac: RansacSettings = MAPFREE_PNP,
    minimal: Literal["p3p", "sqpnp"] = "p3p",
) -> PoseEstimate:
    """Estimate the pose of view 1 from points in the frame of view 0 and the pixels of view 1 that show them.

    Args:
        points0: (M, 3), metres or another unit; points that are not finite are left out.
        pixels1: pixels of view 1, (M, 2).
        intrinsics1: (3, 3) of view 1.
        library: whose solver is used.
        ransac: settings of the search.
        minimal: OpenCV's solver of samples.

    Returns:
        The pose, its translation in the unit of the points; without one the reason.

    Raises:
        InvalidInput: missing or impossible intrinsics, other shapes, or numbers of points and pixels that differ.
        MissingExtra: the library is not installed.
    """
    camera = checked_matrix(intrinsics1, name="view 1")
    points, pixels = checked_rows(points0, 3, name="points"), checked_rows(pixels1, 2, name="pixels of view 1")
    kept = _finite(points, pixels)
    if kept.sum() < FEWEST_FOR_PNP:
        return no_pose(len(points), _too_few(kept, FEWEST_FOR_PNP))
    found = solver(library).pnp(points[kept], pixels[kept], camera, ransac, minimal=minimal)
    if found is None:
        return no_pose(len(points), f"no pose agrees with the {kept.sum()} points")
    rotation, translation, inliers = found
    if not np.isfinite(translation).all() or np.linalg.norm(translation) > FARTHEST:
        return no_pose(len(points), f"the pose found is more than {FARTHEST:g} away")
    return PoseEstimate(
        rotation=rotation,
        translation=translation,
        inliers=scattered(kept, inliers),
        confidence=float(inliers.sum()),
    )


def with_metric_scale(
    estimate: PoseEstimate,
    pixels0: np.ndarray,
    pixels1: np.ndarray,
    depth0: np.ndarray,
    depth1: np.ndarray,
    intrinsics0: np.ndarray | None,
    intrinsics1: np.ndarray | None,
    *,
    rule: Literal["vote", "mean"] = "vote",
    tolerance_m: float = SCALE_TOLERANCE_M,
) -> PoseEstimate:
    """Give an estimate of unknown scale the length of its translation in metres, from depth at its inliers.

    Args:
        estimate: result of `essential_pose`.
        pixels0: pixels of view 0 that it was made from, (M, 2); cut to integers before they are turned to points.
        pixels1: those of view 1.
        depth0: depth of view 0 at these pixels, metres, (M,); 0 or not finite where it is unknown.
        depth1: that of view 1.
        intrinsics0: (3, 3) of view 0.
        intrinsics1: (3, 3) of view 1.
        rule: `vote`, the scale of the inlier that most others agree with; `mean`, that of all.
        tolerance_m: scales this close agree.

    Returns:
        The pose in metres, its inliers those that voted for the scale; without one the reason.

    Raises:
        InvalidInput: missing intrinsics, other shapes, or an unknown rule.
    """
    if estimate.failure:
        return estimate
    if rule not in ("vote", "mean"):
        raise InvalidInput(f"rule {rule!r}: expected vote or mean")
    cameras = checked_matrix(intrinsics0, name="view 0"), checked_matrix(intrinsics1, name="view 1")
    pixels = [checked_rows(rows, 2, name="pixels") for rows in (pixels0, pixels1)]
    depths = [np.asarray(depth, dtype=np.float64) for depth in (depth0, depth1)]
    count = len(estimate.inliers)
    if any(len(rows) != count for rows in pixels) or any(depth.shape != (count,) for depth in depths):
        raise InvalidInput(f"pixels and depths: expected {count} of each, as the estimate was made from")
    known = estimate.inliers & _positive(depths[0]) & _positive(depths[1])
    if not known.any():
        return no_pose(count, f"none of {estimate.inliers.sum()} inliers has depth in both views")
    one, two = (
        np.column_stack([on_unit_plane(np.trunc(rows[known]), camera), np.ones(known.sum())]) * depth[known, None]
        for rows, camera, depth in zip(pixels, cameras, depths, strict=True)
    )
    scales = (two - one @ estimate.rotation.T) @ estimate.translation
    scale, agreeing = _scale(scales, rule, tolerance_m)
    return PoseEstimate(
        rotation=estimate.rotation,
        translation=estimate.translation * scale,
        inliers=scattered(known, agreeing),
        confidence=float(agreeing.sum()),
    )


def _scale(scales: np.ndarray, rule: str, tolerance_m: float) -> tuple[float, np.ndarray]:
    """Return the scale, and which of the candidates agree with it."""
    if rule == "mean":
        return float(scales.mean()), np.ones(len(scales), dtype=bool)
    ordered = np.sort(scales)
    above = np.searchsorted(ordered, scales + tolerance_m, side="left")
    below = np.searchsorted(ordered, scales - tolerance_m, side="right")
    chosen = scales[np.argmax(above - below)]
    return float(chosen), np.abs(scales - chosen) < tolerance_m


def _finite(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    if len(one) != len(two):
        raise InvalidInput(f"{len(one)} and {len(two)} ends of matches: expected as many of each")
    return np.asarray(np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1))


def _positive(depth: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(depth) & (depth > 0))


def _too_few(kept: np.ndarray, fewest: int) -> str:
    finite = "" if kept.all() else f" of {len(kept)} that are finite"
    return f"{kept.sum()} matches{finite}, at least {fewest} are needed"
