"""Compare a student with its baselines: itself before training, a constant, an untrained encoder's map."""

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.comparison.paired import Aligned
from eval.fidelity.metrics import SCORES, SUMS, scores
from eval.fidelity.predictors import BASELINES, STUDENT
from eval.fidelity.scores import PATCH

LOWER_IS_BETTER = frozenset({"smooth_l1"})

ByTeacher = dict[str | None, float]  # teacher -> score; None -> mean over teachers


def best_baseline(values: Mapping[str, float], *, score: str = "cosine") -> tuple[str, float] | None:
    """Return the name and the score of the best baseline; None if none has a score.

    Args:
        values: predictor -> score.
        score: one of `eval.fidelity.metrics.SCORES`.
    """
    known = {name: values[name] for name in BASELINES if math.isfinite(values.get(name, math.nan))}
    if not known:
        return None
    best = (min if score in LOWER_IS_BETTER else max)(known, key=lambda name: known[name])
    return best, known[best]


def is_better(value: float, baseline: float, *, score: str = "cosine") -> bool:
    """Return True if a score is better than that of a baseline; equal scores are not."""
    return value < baseline if score in LOWER_IS_BETTER else value > baseline


def beats_baselines(values: Mapping[str, float], *, score: str = "cosine", predictor: str = STUDENT) -> bool | None:
    """Return True if a predictor is better than every baseline; None if it has no score, or no baseline has one.

    Args:
        values: predictor -> score.
        score: one of `eval.fidelity.metrics.SCORES`.
        predictor: predictor to compare with the baselines.
    """
    best = best_baseline(values, score=score)
    value = values.get(predictor, math.nan)
    if best is None or not math.isfinite(value):
        return None
    return is_better(value, best[1], score=score)


def baseline_scores(table: pa.Table, aligned: Aligned, *, run: str) -> dict[str, ByTeacher]:
    """Compute the patch cosine of every baseline, for each teacher and as the mean over teachers.

    Args:
        table: per-image sums of a run, schema `eval.fidelity.scores.IMAGE_SUMS`.
        aligned: sums of the students of all runs, on the rows that they have in common.
        run: name of the run.

    Returns:
        baseline -> teacher -> patch cosine. A score on other tokens than the student's is left out, and so is a mean
        that lacks a teacher: they do not compare.
    """
    wanted = pc.and_(pc.equal(table["kind"], aligned.kind), pc.equal(table["token_type"], PATCH))
    pooled = table.filter(wanted).group_by(["predictor", "teacher"]).aggregate([(name, "sum") for name in SUMS])
    sums = np.stack([pooled[f"{name}_sum"].to_numpy() for name in SUMS], axis=1)
    keys = zip(pooled["predictor"].to_pylist(), pooled["teacher"].to_pylist(), strict=True)
    by_key = dict(zip(keys, sums, strict=True))
    tokens, cosine = SUMS.index("tokens"), SCORES.index("cosine")
    student_tokens = dict(zip(aligned.teachers, aligned.sums[run][..., tokens].sum(0).tolist(), strict=True))
    result: dict[str, ByTeacher] = {}
    for name in BASELINES:
        by_teacher: ByTeacher = {
            teacher: float(scores(by_key[name, teacher])[cosine])
            for teacher, count in student_tokens.items()
            if (name, teacher) in by_key and by_key[name, teacher][tokens] == count
        }
        if by_teacher and len(by_teacher) == len(student_tokens):
            by_teacher[None] = sum(by_teacher.values()) / len(by_teacher)
        result[name] = by_teacher
    return result
