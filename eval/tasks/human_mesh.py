"""Metrics of human mesh recovery: detection of people, errors of their meshes.

Shapes: P predicted and G true people of one image, J joints, V vertices; pixels in 2D, metres in 3D. Source: the
evaluation of Multi-HMR (Baradel et al., ECCV 2024) on BEDLAM.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

MIN_BOX_OVERLAP = 0.05


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Numbers of people in a whole set: matched, predicted without a match, true without a match."""

    true_positives: int
    false_positives: int
    misses: int


def match(predicted: np.ndarray, true: np.ndarray, *, min_overlap: float = MIN_BOX_OVERLAP) -> list[tuple[int, int]]:
    """Match predicted to true people, greedily by the distance of their joints.

    The distance is the largest singular value of the (J, 2) difference. Pairs are visited in order of distance; a pair
    whose boxes overlap too little is rejected, and the search ends when matches and rejected pairs are as many as the
    predictions, as in the original.

    Args:
        predicted: float (P, J, 2), projected joints in px.
        true: float (G, J, 2), projected joints in px.
        min_overlap: least intersection over union of the joints' boxes for a match.

    Returns:
        (predicted index, true index) pairs in order of distance.
    """
    people, targets = len(predicted), len(true)
    if not people or not targets:
        return []
    distance = np.linalg.norm(predicted[:, None] - true[None], ord=2, axis=(2, 3))
    matches: list[tuple[int, int]] = []
    rejected = 0
    for flat in np.argsort(distance, axis=None, kind="stable"):
        if len(matches) == targets or len(matches) + rejected >= people:
            break
        p, g = divmod(int(flat), targets)
        if box_overlap(predicted[p], true[g]) < min_overlap:
            rejected += 1
        elif all(p != first and g != second for first, second in matches):
            matches.append((p, g))
    return matches


def box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the IoU of the bounding boxes of two (J, 2) sets of joints; sides include both end pixels."""
    low, high = np.stack([first.min(0), second.min(0)]), np.stack([first.max(0), second.max(0)])
    areas = np.prod(high - low + 1, axis=1)
    shared = float(np.prod(np.maximum(high.min(0) - low.max(0) + 1, 0)))
    return shared / (float(areas.sum()) - shared)


def detection_scores(detections: Detections) -> dict[str, float]:
    """Precision, recall and F1 in percent; all 0 without a match, also where there is nobody to find or to match.

    The first three are whole percents. As in the original it is the share of 1 that is rounded, to two decimals: 1 of
    40 is 3 and 3 of 40 is 7, where rounding the percents would give 2 and 8. `f1_unrounded` tells close students apart.
    """
    tp, fp, misses = detections.true_positives, detections.false_positives, detections.misses
    if not tp:
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "f1_unrounded": 0.0}
    f1 = tp / (tp + 0.5 * (fp + misses))
    shares = {"precision": tp / (tp + fp), "recall": tp / (tp + misses), "f1": f1}
    return {**{name: float(round(100 * round(share, 2))) for name, share in shares.items()}, "f1_unrounded": 100 * f1}


def pve_mm(predicted: np.ndarray, true: np.ndarray, *, roots: tuple[np.ndarray, np.ndarray]) -> float:
    """Compute the per-vertex error in mm: the mean distance after moving both root joints to the origin.

    Args:
        predicted: float (V, 3) in metres.
        true: float (V, 3) in metres.
        roots: joint 0 (the pelvis) of the predicted and of the true person, each (3,).
    """
    difference = (predicted - roots[0]) - (true - roots[1])
    return float(np.linalg.norm(difference, axis=1).mean() * 1000)


def pa_pve_mm(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the per-vertex error in mm after the similarity that fits the predicted (V, 3) vertices best."""
    return float(np.linalg.norm(align(predicted, true) - true, axis=1).mean() * 1000)


def align(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotate, scale (never mirror) and move (V, 3) `source` to fit `target` in least squares."""
    centred, goal = source - source.mean(0), target - target.mean(0)
    rotation, _ = Rotation.align_vectors(goal, centred)
    rotated = rotation.apply(centred)
    power = float(np.sum(centred**2))
    scale = float(np.sum(goal * rotated)) / power if power > 0 else 0.0
    return np.asarray(scale * rotated + target.mean(0))
