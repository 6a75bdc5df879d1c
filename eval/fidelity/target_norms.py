"""Compare the target statistics of runs: where they differ, the runs' fidelity is in different units."""

from collections.abc import Mapping

import torch

from train.objective.targets import MIN_STD, Standardisation, TargetNorms

NOTABLE_DISTANCE = 0.05


def distance(first: TargetNorms, second: TargetNorms) -> float:
    """Compute the distance of the statistics of two runs: 0.1 means that a channel's mean or std differs by 0.1 std.

    The distance is the median over channels of the larger of both differences, for the teacher and token type where it
    is largest; 0 if the runs have no teacher in common.
    """
    distances = [0.0]
    for teacher in set(first.norms) & set(second.norms):
        ours, theirs = first.stored(teacher), second.stored(teacher)
        for mine, other in ((ours.prefix, theirs.prefix), (ours.patch, theirs.patch)):
            if mine is not None and other is not None and mine.mean.shape == other.mean.shape:
                distances.append(_distance(mine, other))
    return max(distances)


def notes(norms: Mapping[str, TargetNorms]) -> list[str]:
    """Write a warning if the fidelity of runs does not compare; none otherwise."""
    names = list(norms)
    distances = {name: distance(norms[names[0]], norms[name]) for name in names[1:]}
    farthest = max(distances, key=lambda name: distances[name], default="")
    if not farthest or distances[farthest] <= NOTABLE_DISTANCE:
        return []
    return [
        f"These runs standardise their targets differently ('{names[0]}' and '{farthest}' by {distances[farthest]:.2f} "
        "standard deviations in the median channel), so their fidelity is in different units and does not compare. "
        'Train with targets.statistics = "cache" where runs have different datasets.'
    ]


def _distance(first: Standardisation, second: Standardisation) -> float:
    std = first.std.clamp(min=MIN_STD)
    shift = (second.mean - first.mean).abs() / std
    scale = (second.std.clamp(min=MIN_STD) / std - 1).abs()
    return float(torch.maximum(shift, scale).median())
