"""Robust pose solvers of two libraries behind one interface; each is imported when it is first used.

Shapes: M matches. Pixels are (x, y). Poses map camera 0 to camera 1.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from store.errors import InvalidInput, MissingExtra

SolverName = Literal["opencv", "poselib"]
SEED = 0
FARTHEST = 1e9  # baselines: points beyond would not count as in front

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rotation (3, 3), translation (3,), inliers bool (M,)."""


@dataclass(frozen=True, kw_only=True)
class RansacSettings:
    """Settings of a robust estimate.

    Attributes:
        threshold_px: matches within this distance agree with a pose.
        confidence: share of trials that would have found the best pose, at which the search ends.
        iterations: most samples that are drawn.
    """

    threshold_px: float
    confidence: float = 0.9999
    iterations: int = 10_000


class Solver(Protocol):
    """Estimates poses from clean arrays: finite, of float64."""

    def essential(
        self, pixels0: np.ndarray, pixels1: np.ndarray, camera0: np.ndarray, camera1: np.ndarray, ransac: RansacSettings
    ) -> Found | None:
        """Estimate rotation and direction from pixels (M, 2) of both views and their intrinsics; None for no pose."""
        ...

    def pnp(
        self, points: np.ndarray, pixels: np.ndarray, camera: np.ndarray, ransac: RansacSettings, *, minimal: str
    ) -> Found | None:
        """Estimate the pose of a camera from points (M, 3) and their pixels (M, 2); None for no pose."""
        ...


def solver(name: SolverName) -> Solver:
    """Return a solver by the name of its library.

    Raises:
        InvalidInput: unknown name.
        MissingExtra: the library is not installed.
    """
    kinds: dict[str, Callable[[], Solver]] = {"opencv": OpenCV, "poselib": PoseLib}
    if name not in kinds:
        raise InvalidInput(f"solver {name!r}: expected one of {', '.join(kinds)}")
    return kinds[name]()


def _library(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"poses need {distribution}. Run: pip install 'codistill[heads]'") from error


class OpenCV:
    """OpenCV's solvers, as the map-free benchmark's baselines use them."""

    def __init__(self) -> None:
        self.cv2 = _library("cv2", "opencv-python-headless")
        self.minimal = {"p3p": self.cv2.SOLVEPNP_P3P, "sqpnp": self.cv2.SOLVEPNP_SQPNP}

    def essential(
        self, pixels0: np.ndarray, pixels1: np.ndarray, camera0: np.ndarray, camera1: np.ndarray, ransac: RansacSettings
    ) -> Found | None:
        """Estimate an essential matrix by MAGSAC, and decompose it; of several the one with most points in front."""
        rays0, rays1 = (on_unit_plane(pixels, camera) for pixels, camera in ((pixels0, camera0), (pixels1, camera1)))
        focal = np.mean([camera0[0, 0], camera1[1, 1], camera0[1, 1], camera1[0, 0]])
        self.cv2.setRNGSeed(SEED)
        try:
            stacked, mask = self.cv2.findEssentialMat(
                rays0,
                rays1,
                np.eye(3),
                method=self.cv2.USAC_MAGSAC,
                prob=ransac.confidence,
                threshold=ransac.threshold_px / focal,
                maxIters=ransac.iterations,
            )
        except self.cv2.error:  # of matches that all lie in one point or line
            return None
        if stacked is None or mask is None:
            return None
        best: Found | None = None
        for start in range(0, len(stacked) // 3 * 3, 3):
            in_front, rotation, shift, kept, _ = self.cv2.recoverPose(
                stacked[start : start + 3], rays0, rays1, np.eye(3), distanceThresh=FARTHEST, mask=mask.copy()
            )
            if in_front and (best is None or in_front > best[2].sum()):
                best = rotation, shift[:, 0], kept.ravel() > 0
        return best

    def pnp(
        self, points: np.ndarray, pixels: np.ndarray, camera: np.ndarray, ransac: RansacSettings, *, minimal: str
    ) -> Found | None:
        """Estimate a pose from minimal samples; with 6 inliers or more it is refined on them, iteratively."""
        self.cv2.setRNGSeed(SEED)
        try:
            done, turn, shift, chosen = self.cv2.solvePnPRansac(
                points,
                pixels,
                camera,
                None,
                iterationsCount=ransac.iterations,
                reprojectionError=ransac.threshold_px,
                confidence=ransac.confidence,
                flags=self.minimal[minimal],
            )
            if not done or chosen is None:
                return None
            kept = chosen.ravel()
            if len(kept) >= 6:
                _, turn, shift = self.cv2.solvePnP(
                    points[kept], pixels[kept], camera, None, turn, shift, True, self.cv2.SOLVEPNP_ITERATIVE
                )
        except self.cv2.error:  # of degenerate points
            return None
        inliers = np.zeros(len(points), dtype=bool)
        inliers[kept] = True
        return self.cv2.Rodrigues(turn)[0], shift.ravel(), inliers


class PoseLib:
    """PoseLib's solvers, which refine what they find on all inliers."""

    def __init__(self) -> None:
        self.poselib = _library("poselib", "poselib")

    def essential(
        self, pixels0: np.ndarray, pixels1: np.ndarray, camera0: np.ndarray, camera1: np.ndarray, ransac: RansacSettings
    ) -> Found | None:
        """Estimate a relative pose by LO-RANSAC on the epipolar error."""
        options = _options(ransac) | {"max_epipolar_error": ransac.threshold_px}
        pose, report = self.poselib.estimate_relative_pose(
            pixels0, pixels1, _camera(camera0), _camera(camera1), options, {}
        )
        return self._found(pose, report, direction=True)

    def pnp(
        self, points: np.ndarray, pixels: np.ndarray, camera: np.ndarray, ransac: RansacSettings, *, minimal: str
    ) -> Found | None:
        """Estimate a pose by LO-RANSAC; the minimal solver is always P3P."""
        options = _options(ransac) | {"max_reproj_error": ransac.threshold_px}
        pose, report = self.poselib.estimate_absolute_pose(pixels, points, _camera(camera), options, {})
        return self._found(pose, report, direction=False)

    def _found(self, pose: Any, report: dict[str, Any], *, direction: bool) -> Found | None:
        shift, inliers = np.asarray(pose.t, dtype=np.float64), np.asarray(report["inliers"], dtype=bool)
        length = np.linalg.norm(shift)
        if not inliers.any() or not np.isfinite(length) or (direction and not length):
            return None
        return np.asarray(pose.R, dtype=np.float64), shift / length if direction else shift, inliers


def _options(ransac: RansacSettings) -> dict[str, Any]:
    return {"success_prob": ransac.confidence, "max_iterations": ransac.iterations, "seed": SEED}


def _camera(intrinsics: np.ndarray) -> dict[str, Any]:
    """Return a camera as PoseLib takes it. Pixels and principal point count from the same origin, so none is moved."""
    parameters = [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]
    width, height = (max(1, round(2 * float(intrinsics[axis, 2]))) for axis in (0, 1))
    return {"model": "PINHOLE", "width": width, "height": height, "params": parameters}


def on_unit_plane(pixels: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return the points (M, 2) at depth 1 that pixels (M, 2) show."""
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera).T
    plane: np.ndarray = rays[:, :2] / rays[:, 2:]
    return plane
