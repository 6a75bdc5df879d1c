"""Multi-view depth: absolute relative error and inlier ratio.

Shapes: H W pixels of the true depth, h w of the predicted one. Depths are z coordinates in metres; a true depth of 0
is unknown. Source: the robust multi-view depth benchmark (Schroeppel et al., 3DV 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from store.errors import InvalidInput

MIN_DEPTH_M, MAX_DEPTH_M = 0.1, 100.0
INLIER_RATIO = 1.03

Alignment = Literal["median", "none"]


@dataclass(frozen=True, kw_only=True)
class DepthScore:
    """Absolute relative error and inliers of one sample, both in percent."""

    absrel: float
    inliers: float


def score(predicted: np.ndarray, true: np.ndarray, *, align: Alignment = "median") -> DepthScore:
    """Score one predicted depth map.

    Args:
        predicted: float (h, w), brought to (H, W) by nearest neighbour (pixel centres on pixel centres).
        true: float (H, W), 0 where unknown.
        align: `median` scales the prediction by the ratio of the medians; `none` takes it as metric. Either way it
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
    """Of predictions from different numbers of source views the one with the least absolute relative error."""
    return min(scores, key=lambda entry: entry.absrel)


def summarise(sets: Mapping[str, Sequence[DepthScore]]) -> dict[str, dict[str, float]]:
    """Means over the samples of each set, and over the sets (each counts once) under `average`."""
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


def resize_nearest(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Nearest-neighbour resize of an (h, w) image to `shape` = (H, W), pixel centres on pixel centres."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for old, new in zip(image.shape, shape, strict=True)
    )
    return np.asarray(image[np.ix_(rows, columns)])
