"""Two and more runs side by side: differences on the same photographs, and how much the seed alone changes.

Shapes: K images, T teachers, M sums, R replicates, G runs of a recipe.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import stdtrit

from eval import bootstrap
from eval.metrics import SCORES, SUMS, scores
from eval.predictors import STUDENT
from eval.summary import PATCH, blocks
from train.recipe import FREE_SECTIONS, Recipe, flattened

SEED_LEVEL = 0.95  # of the interval that a difference between recipes must leave


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A run minus a reference, of the mean over teachers, with a 95 % interval by the paired bootstrap over images."""

    value: float
    low: float
    high: float
    images: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero; False where there is none."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Runs that differ in their seed alone, and the mean and standard deviation of their scores."""

    runs: tuple[str, ...]
    mean: float
    std: float


def mean_over_teachers(table: pa.Table, *, kind: str, score: str = "cosine") -> float:
    """The student's score on patch tokens averaged over teachers; NaN if there is none."""
    _, _, sums = _student_sums(table, kind)
    return float(_mean_score(sums.sum(0)[None], score)[0]) if sums.size else math.nan


def difference(
    table: pa.Table, reference: pa.Table, *, kind: str, score: str = "cosine", replicates: int = 1000, seed: int = 0
) -> Difference:
    """How much better a run's student is than a reference's, on the images and teachers that both have.

    Args:
        table: per-image sums of the run.
        reference: those of the reference.
        kind: of held-out rows.
        score: one of `eval.metrics.SCORES`.
        replicates: bootstrap resamples.
        seed: of the resampling.
    """
    images, teachers, ours = _student_sums(table, kind)
    other_images, other_teachers, theirs = _student_sums(reference, kind)
    common, at, at_other = np.intersect1d(images, other_images, return_indices=True)
    _, which, which_other = np.intersect1d(teachers, other_teachers, return_indices=True)
    if not len(common) or not len(which):
        return Difference(value=math.nan, low=math.nan, high=math.nan, images=0)
    pair = np.stack([ours[np.ix_(at, which)], theirs[np.ix_(at_other, which_other)]], axis=1)  # (K, 2, T, M)

    def statistic(summed: np.ndarray) -> np.ndarray:
        return np.asarray(_mean_score(summed[:, 0], score) - _mean_score(summed[:, 1], score))

    value = float(statistic(pair.sum(0)[None])[0])
    if len(common) < 2:
        return Difference(value=value, low=math.nan, high=math.nan, images=len(common))
    low, high = bootstrap.interval(bootstrap.replicates(pair, statistic, count=replicates, seed=seed))
    return Difference(value=value, low=float(low), high=float(high), images=len(common))


def seed_groups(recipes: Mapping[str, Recipe], values: Mapping[str, float]) -> list[SeedGroup]:
    """Group runs whose recipes differ in seed and name alone, best mean first.

    Args:
        recipes: run -> recipe.
        values: run -> its score, higher is better.
    """
    members: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, recipe in recipes.items():
        members.setdefault(_without_seed(recipe), []).append(name)
    groups = []
    for runs in members.values():
        found = np.array([values[name] for name in runs])
        std = float(found.std(ddof=1)) if len(found) > 1 else math.nan
        groups.append(SeedGroup(runs=tuple(runs), mean=float(found.mean()), std=std))
    return sorted(groups, key=lambda group: -group.mean if math.isfinite(group.mean) else math.inf)


def beyond_seed_noise(first: SeedGroup, second: SeedGroup, groups: Sequence[SeedGroup]) -> bool | None:
    """Whether two groups differ at the 5 % level of Student's t-test; None if no group has two seeds.

    The standard deviation between seeds is pooled over all groups that have several, because two or three seeds of
    one recipe say little about it; that even the pooled one comes from few runs is what the t-distribution is for.
    """
    several = [group for group in groups if len(group.runs) > 1]
    if not several:
        return None
    degrees = sum(len(group.runs) - 1 for group in several)
    pooled = math.sqrt(sum((len(group.runs) - 1) * group.std**2 for group in several) / degrees)
    error = pooled * math.sqrt(1 / len(first.runs) + 1 / len(second.runs))
    return bool(abs(first.mean - second.mean) > stdtrit(degrees, (1 + SEED_LEVEL) / 2) * error)


def varying(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, object]]:
    """Recipe keys that are not the same in all runs: key -> run -> value."""
    flat = {name: dict(_entries(recipe)) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for entries in flat.values() for key in entries)
    return {
        key: {name: entries.get(key) for name, entries in flat.items()}
        for key in keys
        if len({repr(entries.get(key)) for entries in flat.values()}) > 1
    }


def _without_seed(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    return tuple((key, repr(value)) for key, value in _entries(recipe) if key not in ("seed", "name"))


def _entries(recipe: Recipe) -> list[tuple[str, object]]:
    """Dotted keys of what decides the numbers of a training."""
    entries = flattened(recipe.model_dump(mode="json"))
    return [(key, value) for key, value in entries if key.split(".")[0] not in FREE_SECTIONS]


def _student_sums(table: pa.Table, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (K,) that all teachers have, teachers (T,) and the student's sums on patch tokens (K, T, M)."""
    found = {
        teacher: (images, sums)
        for (group, teacher, token_type, predictor), images, sums in blocks(table, "kind")
        if (group, token_type, predictor) == (kind, PATCH, STUDENT)
    }
    teachers = sorted(found)
    if not teachers:
        return np.array([]), np.array([]), np.zeros((0, 0, len(SUMS)))
    common = found[teachers[0]][0]
    for teacher in teachers[1:]:
        common = np.intersect1d(common, found[teacher][0])
    stacked = [found[teacher][1][np.isin(found[teacher][0], common)] for teacher in teachers]
    return common, np.array(teachers, dtype=object), np.stack(stacked, axis=1)


def _mean_score(summed: np.ndarray, score: str) -> np.ndarray:
    """(R, T, M) sums -> (R,) one score averaged over teachers."""
    return np.asarray(scores(summed)[..., SCORES.index(score)].mean(axis=-1))
