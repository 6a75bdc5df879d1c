"""Estimated relative poses, and the checks of what they are estimated from.

Shapes: M matches. Pixels are (x, y) with centres at integers. A pose maps camera 0 to camera 1: X1 = R X0 + t.
"""

from dataclasses import dataclass, field

import numpy as np

from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class PoseEstimate:
    """Pose of the second camera in the frame of the first, or why there is none.

    Attributes:
        rotation: float64 (3, 3); NaN without a pose.
        translation: float64 (3,), in the unit of the points, or of length 1 where the scale is unknown; NaN without a
            pose.
        inliers: which of the M matches agree with the pose, bool (M,).
        confidence: number of matches behind the pose; 0 without one.
        failure: why there is no pose; empty if there is one.
    """

    rotation: np.ndarray = field(default_factory=lambda: np.full((3, 3), np.nan))
    translation: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))
    inliers: np.ndarray
    confidence: float = 0.0
    failure: str = ""

    @property
    def matrix(self) -> np.ndarray:
        """The transform from camera 0 to camera 1, float64 (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix


def no_pose(count: int, failure: str) -> PoseEstimate:
    """Return the estimate of `count` matches that give no pose."""
    return PoseEstimate(inliers=np.zeros(count, dtype=bool), failure=failure)


def checked_matrix(intrinsics: np.ndarray | None, *, name: str) -> np.ndarray:
    """Return a camera's intrinsics as float64 (3, 3).

    Raises:
        InvalidInput: there are none, or they are no camera's.
    """
    if intrinsics is None:
        raise InvalidInput(f"{name}: no intrinsics. Give the 3x3 matrix in px of these maps")
    matrix = np.asarray(intrinsics, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InvalidInput(f"{name}: expected intrinsics (3, 3) with positive focal lengths, found {matrix.tolist()}")
    return matrix


def checked_rows(values: np.ndarray, columns: int, *, name: str) -> np.ndarray:
    """Return pixels or points as float64 (M, columns).

    Raises:
        InvalidInput: another shape.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise InvalidInput(f"{name} {rows.shape}: expected (matches, {columns})")
    return rows


def scattered(kept: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return a mask of all matches from the choice among those kept: bool (M,)."""
    mask = np.zeros(len(kept), dtype=bool)
    mask[np.flatnonzero(kept)[chosen]] = True
    return mask
