"""Metrics of multi-view depth (absolute relative error, inliers) and of multi-view pose (RRA, RTA, mAA).

Shapes: H W pixels of the true depth, h w of the predicted one; F frames of a sequence, P pairs of frames. Depths are z
coordinates in metres; a true depth of 0 is unknown. Source of depth: the robust multi-view depth benchmark (Schroeppel
et al., 3DV 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from store.errors import InvalidInput

MIN_DEPTH_M, MAX_DEPTH_M = 0.1, 100.0
INLIER_RATIO = 1.03
THRESHOLD_DEG = 15.0
MAX_THRESHOLD_DEG = 30
_ORTHONORMAL_TOLERANCE = 1e-3

Alignment = Literal["median", "none"]


@dataclass(frozen=True, kw_only=True)
class DepthScore:
    """Absolute relative error and inliers of one sample, both in percent."""

    absrel: float
    inliers: float


@dataclass(frozen=True, kw_only=True)
class PairErrors:
    """Errors of every pair in degrees: rotation (P,) and direction of translation (P,), up to sign."""

    rotation_deg: np.ndarray
    translation_deg: np.ndarray


def score(predicted: np.ndarray, true: np.ndarray, *, align: Alignment = "median") -> DepthScore:
    """Score one predicted depth map.

    Args:
        predicted: float (h, w), resized to (H, W) by nearest neighbour (pixel centres on pixel centres).
        true: float (H, W), 0 where unknown.
        align: `median` scales the prediction by the ratio of the medians; `none` takes it as metres. In both cases it
            is then clipped to [0.1, 100] m.

    Raises:
        InvalidInput: no true depth at all, or a prediction that is not finite where it is scored.
    """
    known = true > 0
    values, goal = resize_nearest(predicted, true.shape)[known].astype(np.float64), true[known].astype(np.float64)
    if not goal.size:
        raise InvalidInput("true depth: no pixel above 0, so there is nothing to score")
    if not np.isfinite(values).all():
        raise InvalidInput(f"predicted depth: {np.sum(~np.isfinite(values))} of {values.size} scored pixels not finite")
    if align == "median":
        middle = float(np.median(values))
        if middle <= 0:
            raise InvalidInput(f"predicted depth: its median {middle:g} m is not positive, so it cannot be aligned")
        values = values * (float(np.median(goal)) / middle)
    values = np.clip(values, MIN_DEPTH_M, MAX_DEPTH_M)
    return DepthScore(
        absrel=100 * float(np.mean(np.abs(values - goal) / goal)),
        inliers=100 * float(np.mean(np.maximum(goal / values, values / goal) < INLIER_RATIO)),
    )


def best(scores: Sequence[DepthScore]) -> DepthScore:
    """Choose the score with the least absolute relative error, among different numbers of source views."""
    return min(scores, key=lambda entry: entry.absrel)


def summarise_depth(sets: Mapping[str, Sequence[DepthScore]]) -> dict[str, dict[str, float]]:
    """Average the scores of each set over its samples, and those of the sets (each counts once) under `average`."""
    table = {
        name: {
            "absrel": float(np.mean([entry.absrel for entry in samples])),
            "inliers": float(np.mean([entry.inliers for entry in samples])),
            "samples": float(len(samples)),
        }
        for name, samples in sets.items()
    }
    average = {metric: float(np.mean([row[metric] for row in table.values()])) for metric in ("absrel", "inliers")}
    return {**table, "average": {**average, "samples": sum(row["samples"] for row in table.values())}}


def pair_errors(predicted: np.ndarray, true: np.ndarray) -> PairErrors:
    """Compute the errors of the relative poses of all pairs of frames of one sequence.

    A translation of length zero has no direction: its error is 90 degrees, the largest possible.

    Args:
        predicted: float (F, 4, 4) or (F, 3, 4), world to camera, in any world and scale.
        true: true poses of the same frames in the same order.

    Raises:
        InvalidInput: other shapes, fewer than two frames, or 3 x 3 parts that are not rotations.
    """
    estimated_rotation, estimated_shift = _relative(_checked(predicted, "predicted"))
    true_rotation, true_shift = _relative(_checked(true, "true"))
    if len(predicted) != len(true):
        raise InvalidInput(f"predicted poses: {len(predicted)} frames, the true ones have {len(true)}")
    cosine = np.sum(_directions(estimated_shift) * _directions(true_shift), axis=1)
    return PairErrors(
        rotation_deg=np.degrees((estimated_rotation * true_rotation.inv()).magnitude()),
        translation_deg=np.degrees(np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))),
    )


def accuracy(errors_deg: np.ndarray, *, threshold_deg: float = THRESHOLD_DEG) -> float:
    """Return the percentage of errors below the threshold (RRA@15, RTA@15); NaN without errors."""
    return 100 * float(np.mean(errors_deg < threshold_deg)) if len(errors_deg) else float("nan")


def mean_average_accuracy(errors: PairErrors, *, max_threshold_deg: int = MAX_THRESHOLD_DEG) -> float:
    """Compute mAA(30) in [0, 1]: the share of pairs whose larger error is below 1..30 degrees, averaged over these.

    An error on an edge counts in the bin above it, except that the last bin is closed.
    """
    larger = np.maximum(errors.rotation_deg, errors.translation_deg)
    if not len(larger):
        return float("nan")
    counts, _ = np.histogram(larger, bins=np.arange(max_threshold_deg + 1))
    return float(np.mean(np.cumsum(counts) / len(larger)))


def pool(errors: list[PairErrors]) -> PairErrors:
    """Join the pairs of several sequences."""
    return PairErrors(
        rotation_deg=np.concatenate([entry.rotation_deg for entry in errors]),
        translation_deg=np.concatenate([entry.translation_deg for entry in errors]),
    )


def summarise_pose(categories: Mapping[str, PairErrors]) -> dict[str, dict[str, float]]:
    """Compute RRA@15, RTA@15 and mAA(30) in percent per category, and their means over categories as `average`."""
    table = {
        name: {
            "rra_15": accuracy(errors.rotation_deg),
            "rta_15": accuracy(errors.translation_deg),
            "maa_30": 100 * mean_average_accuracy(errors),
        }
        for name, errors in categories.items()
    }
    names = ("rra_15", "rta_15", "maa_30")
    return {**table, "average": {name: float(np.mean([row[name] for row in table.values()])) for name in names}}


def resize_nearest(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize an (h, w) image to `shape` = (H, W) by nearest neighbour, pixel centres on pixel centres."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for old, new in zip(image.shape, shape, strict=True)
    )
    return np.asarray(image[np.ix_(rows, columns)])


def _relative(poses: np.ndarray) -> tuple[Rotation, np.ndarray]:
    """Compute rotation and translation (P, 3) of W2C_j W2C_i^-1 for every i < j."""
    first, second = np.triu_indices(len(poses), k=1)
    rotations = Rotation.from_matrix(poses[:, :3, :3])
    relative = rotations[second] * rotations[first].inv()
    return relative, poses[second, :3, 3] - relative.apply(poses[first, :3, 3])


def _directions(shifts: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(shifts, axis=1, keepdims=True)
    return np.asarray(np.divide(shifts, length, out=np.zeros_like(shifts), where=length > 0))


def _checked(poses: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(poses, dtype=np.float64)
    if values.ndim != 3 or values.shape[1:] not in ((4, 4), (3, 4)) or len(values) < 2 or not np.isfinite(values).all():
        raise InvalidInput(f"{name} poses: expected finite (frames >= 2, 4, 4), found shape {values.shape}")
    rotations = values[:, :3, :3]
    deviation = float(np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max())
    if deviation > _ORTHONORMAL_TOLERANCE or (np.linalg.det(rotations) < 0).any():
        raise InvalidInput(f"{name} poses: the 3 x 3 parts are not rotations (off by up to {deviation:.3g})")
    return values
