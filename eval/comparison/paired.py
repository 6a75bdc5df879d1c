"""Runs side by side on the rows that all of them have held out: scores and paired differences.

Runs may be trained on different photographs. What one has never seen another may know, so scores compare only on what
is held out for all in the same sense. Shapes: K images, T teachers, M sums, R replicates, G runs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.fidelity import bootstrap
from eval.fidelity.metrics import SCORES, SUMS, scores
from eval.fidelity.predictors import STUDENT
from eval.fidelity.scores import PATCH

NAN = math.nan


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Runs minus references, with a 95 % interval by the paired bootstrap over images."""

    value: float
    low: float
    high: float
    images: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero; False where there is none."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The students' sums on patch tokens of one kind of held-out rows, for the images and teachers common to all runs.

    Attributes:
        kind: of held-out rows.
        images: K keys.
        teachers: T names.
        sums: run -> float64 (K, T, M); zero where an image has no tokens of a teacher.
    """

    kind: str
    images: tuple[str, ...]
    teachers: tuple[str, ...]
    sums: Mapping[str, np.ndarray]

    def score(self, run: str, *, teacher: str | None = None, score: str = "cosine") -> float:
        """A run's score for one teacher, or the mean over teachers; NaN if nothing is common."""
        if not self.images or not self.teachers:
            return NAN
        return float(self._scores(self.sums[run].sum(0)[None], teacher, score)[0])

    def difference(
        self,
        runs: Sequence[str],
        references: Sequence[str],
        *,
        teacher: str | None = None,
        score: str = "cosine",
        replicates: int = 1000,
        seed: int = 0,
    ) -> Difference:
        """How much better runs are than references on average, on the same photographs.

        Pairing takes out that some images are harder than others. The interval says what other photographs would
        change; what other seeds would change it does not know.

        Args:
            runs: of one recipe.
            references: of another.
            teacher: for this one alone; left out, the mean over teachers.
            score: one of `eval.metrics.SCORES`.
            replicates: bootstrap resamples.
            seed: of the resampling.
        """
        if not self.images or not self.teachers:
            return Difference(value=NAN, low=NAN, high=NAN, images=0)
        stacked = np.stack([self.sums[run] for run in (*runs, *references)], axis=1)  # (K, G, T, M)

        def statistic(summed: np.ndarray) -> np.ndarray:
            values = self._scores(summed, teacher, score)  # (R, G)
            return np.asarray(values[:, : len(runs)].mean(1) - values[:, len(runs) :].mean(1))

        value = float(statistic(stacked.sum(0)[None])[0])
        if len(self.images) < 2:
            return Difference(value=value, low=NAN, high=NAN, images=len(self.images))
        low, high = bootstrap.interval(bootstrap.replicates(stacked, statistic, count=replicates, seed=seed))
        return Difference(value=value, low=float(low), high=float(high), images=len(self.images))

    def _scores(self, summed: np.ndarray, teacher: str | None, score: str) -> np.ndarray:
        """(..., T, M) sums -> (...) the score of one teacher or the mean over teachers."""
        values = scores(summed)[..., SCORES.index(score)]
        return np.asarray(values.mean(-1) if teacher is None else values[..., self.teachers.index(teacher)])


def in_common(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Keep the rows of tables (`eval.summary.IMAGE_SUMS`) that all runs have held out in the same sense.

    Runs without anything in common are left as they are: they cannot be compared, but each can be looked at.
    """
    keys = {run: _keys(table) for run, table in tables.items()}
    common = set.intersection(*(set(found.to_pylist()) for found in keys.values())) if keys else set()
    if not common:
        return dict(tables)
    wanted = pa.array(sorted(common))
    return {run: table.filter(pc.is_in(keys[run], value_set=wanted)) for run, table in tables.items()}


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """What a row is of, whoever predicts it."""
    names = ("dataset", "kind", "image", "teacher", "token_type")
    return pc.binary_join_element_wise(*(table[name] for name in names), "\0")


def align(tables: Mapping[str, pa.Table], *, kind: str) -> Aligned:
    """Keep what all runs have held out in the same sense.

    Args:
        tables: run -> per-image sums (`eval.summary.IMAGE_SUMS`).
        kind: of held-out rows.
    """
    found = {run: _student_sums(table, kind) for run, table in tables.items()}
    common = set.intersection(*(set(entries) for entries in found.values())) if found else set()
    teachers = tuple(sorted({teacher for _, _, teacher in common}))
    images = tuple(sorted({image for _, image, _ in common}))
    at_teacher, at_image = ({name: place for place, name in enumerate(names)} for names in (teachers, images))
    sums = {}
    for run, entries in found.items():
        sums[run] = np.zeros((len(images), len(teachers), len(SUMS)))
        for key in common:
            sums[run][at_image[key[1]], at_teacher[key[2]]] += entries[key]
    return Aligned(kind=kind, images=images, teachers=teachers, sums=sums)


def _student_sums(table: pa.Table, kind: str) -> dict[tuple[str, str, str], np.ndarray]:
    """(dataset, image, teacher) -> the student's sums on patch tokens (M,)."""
    wanted = {"kind": kind, "token_type": PATCH, "predictor": STUDENT}
    for column, value in wanted.items():
        table = table.filter(pc.equal(table[column], value))
    sums = np.stack([table[name].to_numpy() for name in SUMS], axis=1) if len(table) else np.zeros((0, len(SUMS)))
    keys = (table[name].to_pylist() for name in ("dataset", "image", "teacher"))
    return dict(zip(zip(*keys, strict=True), sums, strict=True))
