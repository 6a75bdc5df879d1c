"""Scores and paired differences of runs, on the rows that all of them have held out.

Runs may be trained on different photographs, and one may have seen what another has not. So scores are compared only on
rows that are held out for all runs, as the same kind. Shapes: K images, T teachers, M sums, R replicates, G runs.
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
    """Difference of runs and references, with a 95 % interval by the paired bootstrap over images."""

    value: float
    low: float
    high: float
    images: int

    @property
    def clear(self) -> bool:
        """True if the interval excludes zero; False without an interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The students' sums on patch tokens of one kind of held-out rows, for the images and teachers common to all runs.

    Attributes:
        kind: kind of the held-out rows.
        images: keys of the K images.
        teachers: names of the T teachers.
        sums: run -> float64 (K, T, M); zero where an image has no tokens of a teacher.
    """

    kind: str
    images: tuple[str, ...]
    teachers: tuple[str, ...]
    sums: Mapping[str, np.ndarray]

    def score(self, run: str, *, teacher: str | None = None, score: str = "cosine") -> float:
        """Return a run's score for one teacher, or the mean over teachers; NaN if nothing is common."""
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
        weights: tuple[Sequence[float], Sequence[float]] | None = None,
        replicates: int = 1000,
        seed: int = 0,
    ) -> Difference:
        """Compute how much better runs are than references on average, on the same photographs.

        Pairing removes the effect that some images are harder than others. The interval covers the choice of
        photographs, not the choice of seeds.

        Args:
            runs: runs of one recipe.
            references: runs of another recipe.
            teacher: name of one teacher; None takes the mean over teachers.
            score: one of `eval.fidelity.metrics.SCORES`.
            weights: weights of the runs and of the references, each summing to 1; None weighs them equally.
            replicates: number of bootstrap resamples.
            seed: seed of the resampling.
        """
        if not self.images or not self.teachers:
            return Difference(value=NAN, low=NAN, high=NAN, images=0)
        shares = weights or ([1 / len(runs)] * len(runs), [1 / len(references)] * len(references))
        signed = np.concatenate([np.asarray(shares[0]), -np.asarray(shares[1])])  # (G,)
        stacked = np.stack([self.sums[run] for run in (*runs, *references)], axis=1)  # (K, G, T, M)

        def statistic(summed: np.ndarray) -> np.ndarray:
            return np.asarray(self._scores(summed, teacher, score) @ signed)  # (R, G) @ (G,)

        value = float(statistic(stacked.sum(0)[None])[0])
        if len(self.images) < 2:
            return Difference(value=value, low=NAN, high=NAN, images=len(self.images))
        low, high = bootstrap.interval(bootstrap.replicates(stacked, statistic, count=replicates, seed=seed))
        return Difference(value=value, low=float(low), high=float(high), images=len(self.images))

    def _scores(self, summed: np.ndarray, teacher: str | None, score: str) -> np.ndarray:
        """Turn (..., T, M) sums into (...) the score of one teacher or the mean over teachers."""
        values = scores(summed)[..., SCORES.index(score)]
        return np.asarray(values.mean(-1) if teacher is None else values[..., self.teachers.index(teacher)])


def in_common(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Keep the rows that all runs have held out, as the same kind.

    Runs without any row in common are left as they are: they cannot be compared, but each has scores of its own.

    Args:
        tables: run -> per-image sums, schema `eval.fidelity.scores.IMAGE_SUMS`.
    """
    keys = {run: _keys(table) for run, table in tables.items()}
    common = set.intersection(*(set(column.to_pylist()) for column in keys.values())) if keys else set()
    if not common:
        return dict(tables)
    wanted = pa.array(sorted(common))
    return {run: table.filter(pc.is_in(keys[run], value_set=wanted)) for run, table in tables.items()}


def align(tables: Mapping[str, pa.Table], *, kind: str) -> Aligned:
    """Bring the students' sums of all runs to the images and teachers that they have in common.

    Args:
        tables: run -> per-image sums, schema `eval.fidelity.scores.IMAGE_SUMS`.
        kind: kind of held-out rows to take.
    """
    by_run = {run: _student_sums(table, kind) for run, table in tables.items()}
    common = set.intersection(*(set(entries) for entries in by_run.values())) if by_run else set()
    teachers = tuple(sorted({teacher for _, _, teacher in common}))
    images = tuple(sorted({image for _, image, _ in common}))
    teacher_index, image_index = ({name: index for index, name in enumerate(names)} for names in (teachers, images))
    sums = {}
    for run, entries in by_run.items():
        sums[run] = np.zeros((len(images), len(teachers), len(SUMS)))
        for key in common:
            sums[run][image_index[key[1]], teacher_index[key[2]]] += entries[key]
    return Aligned(kind=kind, images=images, teachers=teachers, sums=sums)


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """Join the columns that name a row, whichever predictor it is of."""
    names = ("dataset", "kind", "image", "teacher", "token_type")
    return pc.binary_join_element_wise(*(table[name] for name in names), "\0")


def _student_sums(table: pa.Table, kind: str) -> dict[tuple[str, str, str], np.ndarray]:
    """Map (dataset, image, teacher) to the student's sums on patch tokens (M,)."""
    wanted = {"kind": kind, "token_type": PATCH, "predictor": STUDENT}
    for column, value in wanted.items():
        table = table.filter(pc.equal(table[column], value))
    sums = np.stack([table[name].to_numpy() for name in SUMS], axis=1) if len(table) else np.zeros((0, len(SUMS)))
    keys = (table[name].to_pylist() for name in ("dataset", "image", "teacher"))
    return dict(zip(zip(*keys, strict=True), sums, strict=True))
