"""Exact statistics of a run's targets: mean and std of every teacher's tokens over the training mixture."""

from collections.abc import Mapping

import numpy as np
import torch

from store.errors import InvalidInput
from store.format.moments import TokenMoments
from store.format.statistics import Moments, merge
from train.data.mixture import CachedForm, Mixture, Source
from train.objective.targets import Standardisation, TargetNorms
from train.recipe.config import Recipe

ROWS_AT_ONCE = 64


def set_exact(norms: TargetNorms, mixture: Mixture, *, over_subset: bool) -> None:
    """Set mean and std of every teacher to those over the training mixture.

    Every group has the same weight, as in a batch; inside a group, a dataset's weight is its number of usable rows.

    Args:
        norms: statistics to set, in place.
        mixture: mixture whose `reference` datasets count, each with the sealed statistics of all its ok rows. A subset
            changes the weight of a dataset, not its statistics.
        over_subset: compute the statistics of the usable rows alone instead, by reading them all once. What is stored
            in a code keeps the sealed ones: they are of the true tokens, decoded ones have the spread of their noise.

    Raises:
        InvalidInput: a teacher without a single ok row.
    """
    for name in mixture.teachers:
        prefixes: list[Moments] = []
        patches: list[Moments] = []
        weights: list[float] = []
        for sources in mixture.reference.values():
            rows = sum(len(source.rows) for source in sources)
            for source in sources:
                if name not in source.dataset.teachers or not len(source.rows):
                    continue
                computed = over_subset and not source.codes([name])
                prefix, patch = _computed(source, name) if computed else _sealed(source, name)
                if not patch.count.any():
                    continue
                patches.append(patch)
                weights.append(len(source.rows) / rows)
                if prefix is not None:
                    prefixes.append(prefix)
        if not patches:
            raise InvalidInput(f"teacher '{name}' has no ok row in these datasets. Leave it out with --data.teachers")
        norms.set(
            name,
            patch=_standardisation(merge(patches, weights)),
            prefix=_standardisation(merge(prefixes, weights)) if prefixes else None,
        )


def note_on_codes(forms: Mapping[str, CachedForm], recipe: Recipe) -> str:
    """Say which teachers are read as codes, and what that changes; empty if none is."""
    ratios = [f"{name} {form.code.ratio:g}x" for name, form in forms.items() if form.code is not None]
    if not ratios:
        return ""
    text = f"targets in codes: {', '.join(ratios)}; the corrected loss estimates the loss on the true tokens"
    if recipe.targets.statistics == "subset":
        text += "; their statistics are those of all rows of each dataset, weighted by the rows of data.subset"
    return text


def _sealed(source: Source, teacher: str) -> tuple[Moments | None, Moments]:
    stored = source.dataset.statistics(teacher)
    return stored.prefix, stored.patch


def _computed(source: Source, teacher: str) -> tuple[Moments | None, Moments]:
    info = source.dataset.teacher(teacher)
    prefix_tokens, grid = info.prefix_tokens, info.patch_grid
    tokens = prefix_tokens + grid[0] * grid[1]
    moments = TokenMoments(prefix_tokens=prefix_tokens, tokens=tokens, channels=info.channels, rows=len(source.rows))
    for begin in range(0, len(source.rows), ROWS_AT_ONCE):
        indices = np.arange(begin, min(begin + ROWS_AT_ONCE, len(source.rows)))
        for tokens_of_row in source.dataset.read(source.rows_at(indices), [teacher])[teacher]:
            moments.add(tokens_of_row)
    return moments.result()


def _standardisation(moments: Moments) -> Standardisation:
    return Standardisation(torch.from_numpy(moments.mean).float(), torch.from_numpy(moments.std).float())
