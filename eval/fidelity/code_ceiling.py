"""What a teacher's true tokens score against its decoded ones: the ceiling of targets that are stored in a code.

Known from the distortion that was sealed with the codes; no true token is read. Shapes: C channels.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from eval.fidelity.predictors import Key, statistics
from eval.fidelity.scores import PATCH, PREFIX
from train.data.mixture import Source
from train.objective.targets import MIN_STD, TargetNorms

Ceilings = Mapping[tuple[int, Key], np.ndarray]  # number of a source, then teacher and token type


def of_sources(sources: Sequence[Source], *, norms: TargetNorms) -> Ceilings:
    """Return the mean cosine, smooth-L1 and squared error between true and decoded tokens, float64 (3,).

    Args:
        sources: sources whose rows are scored.
        norms: statistics that the targets are standardised with; the squared error is in their units.
    """
    ceilings = {}
    for number, source in enumerate(sources):
        for name in source.codes(source.reads):
            info = source.dataset.teacher(name)
            for position, kind in enumerate((PREFIX, PATCH)):
                if kind == PATCH or info.prefix_tokens:
                    ceilings[number, (name, kind)] = _ceiling(source, name, position, kind, norms=norms)
    return ceilings


def _ceiling(source: Source, teacher: str, position: int, kind: str, *, norms: TargetNorms) -> np.ndarray:
    distortion, code = source.dataset.distortion(teacher), source.dataset.code(teacher)
    tokens, cosine, smooth_l1 = distortion.floor[position]
    true, product, decoded = distortion.sums[position]  # (C,) each, in units of the code
    std = statistics(norms, (teacher, kind)).std.double().clamp(min=MIN_STD).cpu().numpy()
    squared = (true - 2 * product + decoded) * np.square(code.std[position] / std)
    return np.array([1 - cosine / tokens, smooth_l1 / tokens, squared.mean() / tokens])
