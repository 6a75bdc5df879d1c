"""Human mesh recovery: who was found, and how far the meshes are off.

Shapes: P predicted and G true people of one image, J joints, V vertices; pixels in 2D, metres in 3D. Source: the
evaluation of Multi-HMR (Baradel et al., ECCV 2024) on BEDLAM.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

MIN_BOX_OVERLAP = 0.05


@dataclass(frozen=True, kw_only=True)
class Detections:
    """People found over a whole set: matched, predicted without a match, true without a match."""

    true_positives: int
    false_positives: int
    misses: int


def match(predicted: np.ndarray, true: np.ndarray, *, min_overlap: float = MIN_BOX_OVERLAP) -> list[tuple[int, int]]:
    """Match predicted to true people, greedily by the distance of their joints.

    The distance is the largest singular value of the (J, 2) difference. Pairs are visited from the smallest on; one
    whose boxes overlap too little uses up one prediction of the budget, so many far-off pairs end the search early,
    as in the original.

    Args:
        predicted: float (P, J, 2), projected joints in px.
        true: float (G, J, 2).
        min_overlap: least intersection over union of the joints' boxes for a match.

    Returns:
        (predicted index, true index) pairs in the order in which they were found.
    """
    people, targets = len(predicted), len(true)
    if not people or not targets:
        return []
    distance = np.linalg.norm(predicted[:, None] - true[None], ord=2, axis=(2, 3))
    matches: list[tuple[int, int]] = []
    used_up = 0
    for flat in np.argsort(distance, axis=None, kind="stable"):
        if len(matches) == targets or len(matches) + used_up >= people:
            break
        p, g = divmod(int(flat), targets)
        if box_overlap(predicted[p], true[g]) < min_overlap:
            used_up += 1
        elif all(p != first and g != second for first, second in matches):
            matches.append((p, g))
    return matches


def box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of the bounding boxes of two (J, 2) sets of joints; sides include both end pixels."""
    low, high = np.stack([first.min(0), second.min(0)]), np.stack([first.max(0), second.max(0)])
    areas = np.prod(high - low + 1, axis=1)
    shared = float(np.prod(np.maximum(high.min(0) - low.max(0) + 1, 0)))
    return shared / (float(areas.sum()) - shared)


def detection_scores(detections: Detections) -> dict[str, float]:
    """Precision, recall and F1 in percent, NaN without any person.

    The first three are rounded to whole percents, as in the original; `f1_unrounded` also tells close students apart.
    """
    tp, fp, misses = detections.true_positives, detections.false_positives, detections.misses
    f1 = _percent(tp, tp + 0.5 * (fp + misses))
    exact = {"precision": _percent(tp, tp + fp), "recall": _percent(tp, tp + misses), "f1": f1}
    rounded = {name: round(value) if np.isfinite(value) else value for name, value in exact.items()}
    return {**{name: float(value) for name, value in rounded.items()}, "f1_unrounded": f1}


def pve_mm(predicted: np.ndarray, true: np.ndarray, *, roots: tuple[np.ndarray, np.ndarray]) -> float:
    """Per-vertex error in mm: mean distance after moving both root joints to the origin.

    Args:
        predicted: float (V, 3) in metres.
        true: float (V, 3).
        roots: joint 0 (the pelvis) of the predicted and of the true person, each (3,).
    """
    difference = (predicted - roots[0]) - (true - roots[1])
    return float(np.linalg.norm(difference, axis=1).mean() * 1000)


def pa_pve_mm(predicted: np.ndarray, true: np.ndarray) -> float:
    """Per-vertex error in mm after the similarity transform that fits the predicted (V, 3) vertices best."""
    return float(np.linalg.norm(align(predicted, true) - true, axis=1).mean() * 1000)


def align(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotate, scale (never mirror) and move (V, 3) `source` to fit `target` in least squares."""
    centred, goal = source - source.mean(0), target - target.mean(0)
    rotation, _ = Rotation.align_vectors(goal, centred)
    turned = rotation.apply(centred)
    power = float(np.sum(centred**2))
    scale = float(np.sum(goal * turned)) / power if power > 0 else 0.0
    return np.asarray(scale * turned + target.mean(0))


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")
