"""Correlation of loss updates (Fig. 5): whether an update that helps one teacher helps another.

A low correlation between two teachers means that their gradients pull the student apart.
Shapes: S steps, T teachers, W windows.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class UpdateCorrelation:
    """Per window: Pearson correlation and sign agreement of the teachers' loss changes."""

    teachers: tuple[str, ...]
    first_step: np.ndarray
    pearson: np.ndarray
    sign_agreement: np.ndarray

    def mean_pearson(self) -> np.ndarray:
        """(T, T) Pearson correlation averaged over the windows in which it is defined; NaN where in none."""
        defined = np.isfinite(self.pearson)
        total = np.where(defined, self.pearson, 0.0).sum(0)
        count = defined.sum(0)
        return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two (S,) series; NaN where either doesn't vary."""
    a, b = first - first.mean(), second - second.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    if not np.isfinite(scale) or scale <= 0:
        return float("nan")
    return float(np.clip(a @ b / scale, -1.0, 1.0))


def sign_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of steps at which both (S,) series move the same way; steps at which either stands still don't count."""
    moving = (first != 0) & (second != 0)
    if not moving.any():
        return float("nan")
    return float((np.sign(first[moving]) == np.sign(second[moving])).mean())


def correlate_updates(
    changes: np.ndarray, teachers: tuple[str, ...], *, window: int, first_step: int = 1
) -> UpdateCorrelation:
    """Correlate the loss changes of every pair of teachers in windows of consecutive steps.

    Args:
        changes: float64 (S, T), the change of each teacher's loss by each update: differences of logged losses, or
            after - before on a fixed probe batch (cleaner: no change of batch in it). An update that is not known for
            all teachers (NaN) keeps its place and is left out of its window.
        teachers: T names.
        window: steps in a window; one with fewer than two known updates is left out.
        first_step: number of the first update.
    """
    known = np.isfinite(changes).all(axis=1)
    starts = [start for start in range(0, len(changes), window) if known[start : start + window].sum() >= 2]
    count = len(teachers)
    correlation = np.full((len(starts), count, count), np.nan)
    agreement = correlation.copy()
    for index, start in enumerate(starts):
        part = changes[start : start + window][known[start : start + window]]
        for i in range(count):
            for j in range(count):
                correlation[index, i, j] = pearson(part[:, i], part[:, j])
                agreement[index, i, j] = sign_agreement(part[:, i], part[:, j])
    return UpdateCorrelation(
        teachers=teachers,
        first_step=np.array(starts, dtype=np.int64) + first_step,
        pearson=correlation,
        sign_agreement=agreement,
    )
