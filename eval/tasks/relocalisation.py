"""Map-free visual relocalisation: errors of one pose, and the benchmark's figures over many.

Shapes: N estimated frames, P grid points. Poses are rigid transforms from the world (the scene's reference camera) to
a camera. Source: the Map-free Visual Relocalization benchmark (Arnold et al., ECCV 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import RigidTransform, Rotation

VCRE_THRESHOLDS_PX = (90.0, 45.0)
TRANSLATION_THRESHOLD_M = 0.25
ROTATION_THRESHOLD_DEG = 5.0


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera: focal lengths, principal point and image size, all in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated pose of one frame (world to camera), with the method's confidence (at least 0, higher is better)."""

    pose: RigidTransform
    confidence: float


@dataclass(frozen=True, kw_only=True)
class FrameError:
    """Errors of one estimated pose: virtual correspondences in px, camera centre in m, rotation in degrees."""

    vcre_px: float
    translation_m: float
    rotation_deg: float
    confidence: float


def rigid(quaternion: Sequence[float], translation: Sequence[float]) -> RigidTransform:
    """Build a transform from a quaternion (w, x, y, z; any non-zero norm) and a translation in metres."""
    values = np.asarray(quaternion, dtype=np.float64)
    scale = np.abs(values).max() or 1.0  # squares of large numbers would overflow
    rotation = Rotation.from_quat(values / scale, scalar_first=True)
    return RigidTransform.from_components(np.asarray(translation, dtype=np.float64), rotation)


def virtual_points() -> np.ndarray:
    """Return the benchmark's 196 virtual points in front of a camera: float64 (196, 3), in metres.

    A grid of 7 x 4 x 7 points 0.3 m apart: 1.8 m wide, 0.9 m high, from 1.8 m to 3.6 m away.
    """
    x = 0.3 * np.arange(-3, 4)
    y = 0.3 * np.array([-1.5, -0.5, 0.5, 1.5])
    z = 1.8 + 0.3 * np.arange(7)
    return np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).reshape(-1, 3)


def project(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Project (P, 3) points in camera coordinates to (P, 2) pixels, clipped to the image.

    A point behind the camera is divided by its negative depth too, and is then clipped to a border.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rays = points[:, :2] / points[:, 2:]
    pixels = np.nan_to_num(rays, posinf=np.inf, neginf=-np.inf) * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    return np.asarray(np.clip(pixels, 0.0, (camera.width, camera.height)))


def vcre_px(estimated: RigidTransform, true: RigidTransform, camera: Camera) -> float:
    """Compute the virtual correspondence reprojection error: mean distance in px of true and estimated points."""
    points = virtual_points()
    moved = (estimated * true.inv()).apply(points)  # true camera -> world -> estimated camera
    return float(np.linalg.norm(project(points, camera) - project(moved, camera), axis=1).mean())


def translation_error_m(estimated: RigidTransform, true: RigidTransform) -> float:
    """Compute the distance in metres between two camera centres."""
    return float(np.linalg.norm(estimated.inv().translation - true.inv().translation))


def rotation_error_deg(estimated: RigidTransform, true: RigidTransform) -> float:
    """Compute the angle in degrees between two orientations."""
    return float(np.degrees((estimated.rotation * true.rotation.inv()).magnitude()))


def frame_error(estimate: Estimate, true: RigidTransform, camera: Camera) -> FrameError:
    """Compute all three errors of one estimate against the true pose."""
    return FrameError(
        vcre_px=vcre_px(estimate.pose, true, camera),
        translation_m=translation_error_m(estimate.pose, true),
        rotation_deg=rotation_error_deg(estimate.pose, true),
        confidence=estimate.confidence,
    )


def precision(correct: np.ndarray, *, failures: int) -> float:
    """Return the share of correct estimates among all scored frames, also those without an estimate; NaN of none."""
    frames = len(correct) + failures
    return float(np.sum(correct)) / frames if frames else float("nan")


def average_precision(confidence: np.ndarray, correct: np.ndarray, *, failures: int) -> float:
    """Compute the benchmark's AUC: area under precision against recall as the confidence threshold falls.

    Recall is the share of *frames answered* at a threshold, not of correct ones, so the area also falls with frames
    that have no estimate. Frames of equal confidence are answered together; nothing is interpolated.

    Args:
        confidence: (N,) confidence of each estimate.
        correct: bool (N,), whether each estimate's error is below the threshold.
        failures: number of frames without an estimate.
    """
    frames = len(confidence) + failures
    if not frames:
        return float("nan")
    if not len(confidence):
        return 0.0
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    hits = np.cumsum(np.asarray(correct, dtype=np.float64)[order])
    ends = np.flatnonzero(np.append(np.diff(np.asarray(confidence)[order]) != 0, True))
    answered = ends + 1
    steps = np.diff(answered, prepend=0)
    return float(np.sum(steps * hits[ends] / answered) / frames)


def summarise(scenes: Mapping[str, Sequence[FrameError]], *, failures: int) -> dict[str, float]:
    """Compute the benchmark's figures over all scenes.

    Args:
        scenes: scene -> errors of its estimated frames.
        failures: number of scored frames without an estimate, over all scenes.

    Returns:
        Precision and AUC at each VCRE threshold and for the pose (0.25 m and 5 degrees), all in [0, 1]; the means
        over scenes of the scene's median errors (scenes without any estimate have no median and do not count); the
        number of scored `frames`, and of those with an estimate as `estimated`.
    """
    errors = [error for scene in scenes.values() for error in scene]
    confidence = np.array([error.confidence for error in errors])
    vcre = np.array([error.vcre_px for error in errors])
    translation = np.array([error.translation_m for error in errors])
    rotation = np.array([error.rotation_deg for error in errors])
    correct = {f"vcre_{threshold:g}px": vcre < threshold for threshold in VCRE_THRESHOLDS_PX}
    correct["pose"] = (translation < TRANSLATION_THRESHOLD_M) & (rotation < ROTATION_THRESHOLD_DEG)
    figures = {"frames": float(len(errors) + failures), "estimated": float(len(errors))}
    for name, mask in correct.items():
        figures[f"precision_{name}"] = precision(mask, failures=failures)
        figures[f"auc_{name}"] = average_precision(confidence, mask, failures=failures)
    for name in ("vcre_px", "translation_m", "rotation_deg"):
        medians = [float(np.median([getattr(error, name) for error in scene])) for scene in scenes.values() if scene]
        figures[f"median_{name}"] = float(np.mean(medians)) if medians else float("nan")
    return figures
