"""Ranking of recipes over seeds, with their leads against seed noise and the choice of photographs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from eval.comparison.baselines import ByTeacher, baseline_scores, best_baseline, is_better
from eval.comparison.paired import Aligned, Difference, align
from eval.comparison.seed_noise import SEED_LEVEL, Contest, Group, Spread, contests, groups_of, seed_probability, spread
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS
from train.recipe.config import Recipe
from train.run.headline import DECODED

# The first that has images decides the ranking.
DECIDING_KINDS = (HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, HELD_OUT_PHOTOGRAPHS + DECODED, HELD_OUT_VIEWS + DECODED)
DIGITS = 4  # digits of scores that are shown; recipes that agree in them are tied


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Lead of one recipe over another.

    Attributes:
        first: recipe that leads, if `paired` is positive.
        second: recipe that it is compared with.
        paired: difference on the same photographs, averaged over seeds; NaN if one of them has no score.
        probability: probability that seeds alone make them differ this much; NaN where that is unknown.
    """

    first: Group
    second: Group
    paired: Difference
    probability: float

    @property
    def beyond_seeds(self) -> bool | None:
        """True if the difference is larger than seed noise; None if that is unknown."""
        return None if math.isnan(self.probability) else self.probability < SEED_LEVEL


@dataclass(frozen=True, kw_only=True)
class Standings:
    """Recipes on one kind of held-out rows, by the patch cosine.

    Attributes:
        aligned: sums of all runs.
        groups: runs of each recipe.
        baselines: run -> baseline -> patch cosine by teacher; a run that is absent has none.
    """

    aligned: Aligned
    groups: Sequence[Group]
    baselines: Mapping[str, Mapping[str, ByTeacher]] = field(default_factory=dict)
    _leads: dict[tuple[str, str, str | None], Lead] = field(default_factory=dict, repr=False)
    _spreads: dict[str | None, dict[str, Spread]] = field(default_factory=dict, repr=False)

    def spreads(self, teacher: str | None = None) -> dict[str, Spread]:
        """Map the label of each recipe to its score for a teacher, or to the mean over teachers."""
        if teacher not in self._spreads:
            values = {run: self.aligned.score(run, teacher=teacher) for group in self.groups for run in group.runs}
            self._spreads[teacher] = {group.label: spread(group, values) for group in self.groups}
        return self._spreads[teacher]

    def ordered(self, teacher: str | None = None) -> list[Group]:
        """Order recipes from the best; those without a score come last."""
        spreads = self.spreads(teacher)
        return sorted(self.groups, key=lambda group: nan_last(-spreads[group.label].mean))

    def first(self, teacher: str | None = None, *, among: Sequence[Group] = ()) -> list[Group]:
        """Return the recipe with the best score and those tied with it; none if no recipe has a score.

        Args:
            teacher: teacher to score for; None takes the mean over teachers.
            among: recipes to choose from; all if empty.
        """
        labels = {group.label for group in among or self.groups}
        spreads = self.spreads(teacher)
        scored = [g for g in self.ordered(teacher) if g.label in labels and not math.isnan(spreads[g.label].mean)]
        return [g for g in scored if _shown(spreads[g.label].mean) == _shown(spreads[scored[0].label].mean)]

    @property
    def baselines_known(self) -> bool:
        """True if any recipe has a baseline to compare with."""
        return any(self.best_baseline(group) is not None for group in self.groups)

    def best_baseline(self, group: Group, teacher: str | None = None) -> tuple[str, float] | None:
        """Return the best baseline of a recipe's own runs and its mean over seeds; None if there is none."""
        by_run = [self.baselines.get(run, {}) for run in group.runs]
        names = set.intersection(*(set(baselines) for baselines in by_run))
        means = {
            name: spread(group, {run: self.baselines[run][name].get(teacher, math.nan) for run in group.runs}).mean
            for name in names
        }
        return best_baseline(means)

    def beats_baselines(self, group: Group, teacher: str | None = None) -> bool | None:
        """Return True if a recipe is better than every baseline of its runs; None if that is unknown."""
        best, own = self.best_baseline(group, teacher), self.spreads(teacher)[group.label].mean
        return None if best is None or math.isnan(own) else is_better(own, best[1])

    def lead(self, first: Group, second: Group, teacher: str | None = None) -> Lead:
        """Compute the lead of the first recipe over the second."""
        key = (first.label, second.label, teacher)
        if key not in self._leads:
            spreads = self.spreads(teacher)
            self._leads[key] = Lead(
                first=first,
                second=second,
                paired=self.aligned.difference(
                    first.runs, second.runs, teacher=teacher, weights=(first.weights, second.weights)
                ),
                probability=seed_probability(spreads[first.label], spreads[second.label], list(spreads.values())),
            )
        return self._leads[key]

    def leads(self, among: Sequence[Group], teacher: str | None = None) -> list[Lead]:
        """Compute the lead of the best of some recipes over each of the others, the next best first."""
        labels = {group.label for group in among}
        best, *others = [group for group in self.ordered(teacher) if group.label in labels]
        return [self.lead(best, other, teacher) for other in others]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of one or several sweeps, grouped into recipes over seeds.

    Attributes:
        recipes: run -> recipe.
        tables: run -> per-image sums.
        labels: run -> label of its row in its sweep.
        baselines: runs that others are compared with.
    """

    recipes: Mapping[str, Recipe]
    tables: Mapping[str, pa.Table]
    labels: Mapping[str, str]
    baselines: frozenset[str] = frozenset()

    @cached_property
    def groups(self) -> list[Group]:
        """Runs of each recipe."""
        return groups_of(self.recipes, self.labels)

    @cached_property
    def standings(self) -> dict[str, Standings]:
        """Standings by kind of held-out rows; the first decides the ranking."""
        by_kind = {
            kind: Standings(aligned=aligned, groups=self.groups, baselines=self._baselines(aligned))
            for kind in DECIDING_KINDS
            for aligned in [align(self.tables, kind=kind)]
        }
        return dict(sorted(by_kind.items(), key=lambda item: not item[1].aligned.images))

    @cached_property
    def deciding(self) -> Standings:
        """Standings on held-out photographs if all runs have some in common, else on held-out views."""
        return next(iter(self.standings.values()))

    @cached_property
    def reference(self) -> Group:
        """Recipe that others are compared with: the baseline if all baselines are one recipe, else the best."""
        named = [group for group in self.groups if self.baselines & set(group.runs)]
        return named[0] if len(named) == 1 else self.deciding.ordered()[0]

    @cached_property
    def contests(self) -> list[Contest]:
        """Sets of recipes that differ in one section alone."""
        return contests(self.groups)

    def _baselines(self, aligned: Aligned) -> dict[str, dict[str, ByTeacher]]:
        return {run: baseline_scores(table, aligned, run=run) for run, table in self.tables.items()}

    def colour(self, run: str) -> int:
        """Return the number of a run's recipe, which is its colour in charts."""
        return next(number for number, group in enumerate(self.groups) if run in group.runs)

    def label(self, run: str) -> str:
        """Return the label of a run's recipe."""
        return self.groups[self.colour(run)].label


def _shown(value: float) -> float:
    return round(value, DIGITS)


def nan_last(value: float) -> float:
    """Return a key that sorts numbers in ascending order and NaN behind them."""
    return math.inf if math.isnan(value) else value
