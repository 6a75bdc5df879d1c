"""Group runs into recipes over seeds, measure seed noise, and find recipes that differ in one section.

Shapes: G recipes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from train.recipe.config import FREE_SECTIONS, Recipe, flattened

SEED_LEVEL = 0.05  # significance level of the t-test: below it a difference is beyond seed noise
NOT_COMPARED = ("seed", "name")  # keys in which runs of one recipe may differ

Entries = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one recipe, which differ in their seed alone.

    Attributes:
        label: name of the recipe in tables.
        runs: names of the runs.
        seeds: seed of each run; runs of one seed are repetitions.
        entries: dotted keys of the recipe and their values, but seed and name.
    """

    label: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    entries: Entries

    @property
    def weights(self) -> list[float]:
        """Weights of the runs in the mean over seeds: those of one seed share its weight."""
        return [1 / (len(set(self.seeds)) * self.seeds.count(seed)) for seed in self.seeds]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation over seeds; NaN deviation of one seed, NaN mean if a run has no score."""

    mean: float
    std: float
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Recipes that differ in one section alone.

    Attributes:
        section: name of the section.
        groups: runs of each recipe.
        shared: keys and values of other sections that tell this contest from others about the same section.
    """

    section: str
    groups: tuple[Group, ...]
    shared: Mapping[str, str]


def groups_of(recipes: Mapping[str, Recipe], labels: Mapping[str, str] | None = None) -> list[Group]:
    """Group runs by recipe, in the order in which recipes first appear.

    Args:
        recipes: run -> recipe.
        labels: run -> label of its row in its sweep. Without one, `row/seed-0` and `row/seed-1` are `row`.
    """
    members: dict[Entries, list[str]] = {}
    for name, recipe in recipes.items():
        entries = tuple((key, repr(value)) for key, value in _entries(recipe) if key not in NOT_COMPARED)
        members.setdefault(entries, []).append(name)
    names = [_label(runs, labels or {}) for runs in members.values()]
    return [
        Group(
            label=label if names.count(label) == 1 else f"{label} ({', '.join(runs)})",
            runs=tuple(runs),
            seeds=tuple(recipes[run].seed for run in runs),
            entries=entries,
        )
        for label, (entries, runs) in zip(names, members.items(), strict=True)
    ]


def spread(group: Group, values: Mapping[str, float]) -> Spread:
    """Compute mean and deviation of a score over the seeds of a group; runs of one seed are averaged first.

    Args:
        group: runs of one recipe.
        values: run -> score.
    """
    by_seed: dict[int, list[float]] = {}
    for run, seed in zip(group.runs, group.seeds, strict=True):
        by_seed.setdefault(seed, []).append(values[run])
    means = np.array([np.mean(repeated) for repeated in by_seed.values()])
    std = float(means.std(ddof=1)) if len(means) > 1 else math.nan
    return Spread(mean=float(means.mean()), std=std, seeds=len(means))


def seed_probability(first: Spread, second: Spread, everyone: Sequence[Spread]) -> float:
    """Compute the p-value of Student's t-test for the difference of two recipes.

    NaN if no recipe has scores of two seeds, or one of the two has no score.

    The standard deviation between seeds is pooled over all recipes that have several, because two or three seeds say
    little about it; the t-distribution accounts for the few runs behind the pooled one.

    Args:
        first: scores of one recipe.
        second: scores of the other recipe.
        everyone: scores of all recipes, which the deviation is pooled over.
    """
    several = [entry for entry in everyone if entry.seeds > 1 and math.isfinite(entry.std)]
    apart = abs(first.mean - second.mean)
    if not several or math.isnan(apart):
        return math.nan
    degrees = sum(entry.seeds - 1 for entry in several)
    pooled = math.sqrt(sum((entry.seeds - 1) * entry.std**2 for entry in several) / degrees)
    error = pooled * math.sqrt(1 / first.seeds + 1 / second.seeds)
    if not error:
        return 0.0 if apart else 1.0
    return float(2 * stdtr(degrees, -apart / error))


def contests(groups: Sequence[Group]) -> list[Contest]:
    """Find sets of recipes that differ in one section (`projector`, `sharing`, `data`...) and in nothing else."""
    different = varying(groups)
    sections = dict.fromkeys(key.split(".")[0] for key in different)
    sets = []
    for section in sections:
        alike: dict[Entries, list[Group]] = {}
        for group in groups:
            rest = tuple((key, value) for key, value in group.entries if key.split(".")[0] != section)
            alike.setdefault(rest, []).append(group)
        rests = {rest: members for rest, members in alike.items() if len(members) > 1}
        distinguishing = _distinguishing_keys([dict(rest) for rest in rests], list(different))
        for rest, members in rests.items():
            shared = {key: value for key, value in rest if key in distinguishing}
            sets.append(Contest(section=section, groups=tuple(members), shared=shared))
    return sets


def varying(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Find recipe keys that are not the same in all groups: key -> value of each group."""
    flat = [dict(group.entries) for group in groups]
    keys = dict.fromkeys(key for entries in flat for key in entries)
    by_key = {key: [entries.get(key, "None") for entries in flat] for key in keys}
    return {key: values for key, values in by_key.items() if len(set(values)) > 1}


def _distinguishing_keys(entries: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """Choose as few of the keys, in their order, as tell the entries apart."""
    chosen: list[str] = []
    for key in keys:
        before, after = (len({tuple(e.get(k) for k in some) for e in entries}) for some in (chosen, [*chosen, key]))
        if after > before:
            chosen.append(key)
    return chosen


def _label(runs: Sequence[str], labels: Mapping[str, str]) -> str:
    given = list(dict.fromkeys(labels[run] for run in runs if run in labels))
    if given:
        return " = ".join(given)
    rows = {run.rpartition("/")[0] if run.rpartition("/")[2].startswith("seed-") else run for run in runs}
    return ", ".join(sorted(rows))


def _entries(recipe: Recipe) -> list[tuple[str, object]]:
    """Return dotted keys and values of everything in a recipe that decides the numbers of a training."""
    entries = flattened(recipe.model_dump(mode="json"))
    return [(key, value) for key, value in entries if key.split(".")[0] not in FREE_SECTIONS]
