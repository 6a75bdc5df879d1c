"""Ranking of recipes over seeds, with their leads against seed noise and the choice of photographs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from eval.comparison.paired import Aligned, Difference, align
from eval.comparison.seed_noise import SEED_LEVEL, Contest, Group, Spread, contests, groups_of, seed_probability, spread
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS
from train.recipe.config import Recipe

DECIDING_KINDS = (HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS)  # the first that has images decides the ranking


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Lead of one recipe over another.

    Attributes:
        first: recipe that leads, if `paired` is positive.
        second: recipe that it is compared with.
        paired: difference on the same photographs, averaged over seeds.
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
    """Recipes on one kind of held-out rows, by the cosine of patch tokens.

    Attributes:
        aligned: sums of all runs.
        groups: runs of each recipe.
    """

    aligned: Aligned
    groups: Sequence[Group]
    _leads: dict[tuple[str, str, str | None], Lead] = field(default_factory=dict, repr=False)

    def spreads(self, teacher: str | None = None) -> dict[str, Spread]:
        """Map the label of each recipe to its score for a teacher, or to the mean over teachers."""
        values = {run: self.aligned.score(run, teacher=teacher) for group in self.groups for run in group.runs}
        return {group.label: spread(group, values) for group in self.groups}

    def ordered(self, teacher: str | None = None) -> list[Group]:
        """Order recipes from the best; those without a score come last."""
        spreads = self.spreads(teacher)
        return sorted(self.groups, key=lambda group: _last_if_nan(spreads[group.label].mean))

    def lead(self, first: Group, second: Group, teacher: str | None = None) -> Lead:
        """Compute the lead of the first recipe over the second."""
        key = (first.label, second.label, teacher)
        if key not in self._leads:
            spreads = self.spreads(teacher)
            self._leads[key] = Lead(
                first=first,
                second=second,
                paired=self.aligned.difference(first.runs, second.runs, teacher=teacher),
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
            kind: Standings(aligned=align(self.tables, kind=kind), groups=self.groups) for kind in DECIDING_KINDS
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

    def colour(self, run: str) -> int:
        """Return the number of a run's recipe, which is its colour in charts."""
        return next(number for number, group in enumerate(self.groups) if run in group.runs)

    def label(self, run: str) -> str:
        """Return the label of a run's recipe."""
        return self.groups[self.colour(run)].label


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else -value
