"""Sorting by what no table holds: token norms, and the error of a student; measured on a sample, in the background."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.view import selection, tokens
from eval.view.jobs import READY, Progress
from eval.view.opened import Opened
from eval.view.selection import Selected
from store import errors
from store.inspection import token_images

NORM, ERROR = "norm:", "error:"
ROWS_OF_NORMS, ROWS_OF_ERRORS = 2048, 128  # measured unless a sample is asked for
READ_TOGETHER = 16
VALUE_BYTES = 128


@dataclass
class Values:
    """Values of the rows measured so far."""

    rows: list[tuple[str, int, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rows measured so far, in order, and how far it is.

    Attributes:
        rows: (dataset, row, value).
        facts: state, progress and note for the page.
    """

    rows: Sequence[tuple[str, int, float]]
    facts: dict[str, Any]


def is_measure(sort: str) -> bool:
    """Return whether a sort key is `norm:TEACHER` or `error:RUN:TEACHER`."""
    return sort.startswith((NORM, ERROR))


def sorted_rows(
    opened: Opened,
    chosen: Selected,
    key: Hashable,
    sort: str,
    sample: Sequence[tuple[str, int]] | None,
    *,
    descending: bool,
) -> Measured:
    """Return the rows measured so far in the order of a measure; the measurement goes on in the background.

    Args:
        opened: what is shown.
        chosen: rows to sort; unless they are few, a sample of them is measured.
        key: what `chosen` and `sample` are of.
        sort: `norm:TEACHER` (mean norm of a row's patches) or `error:RUN:TEACHER` (mean of 1 - cosine over them).
        sample: rows to measure; None draws as many as take some seconds.
        descending: whether the largest value comes first.

    Raises:
        errors.MissingName: no such run, or no chosen dataset has such an array.
        errors.InvalidInput: the measurement failed; the reason is told.
    """
    of_norms = sort.startswith(NORM)
    run, _, teacher = ("", "", sort.removeprefix(NORM)) if of_norms else sort.removeprefix(ERROR).rpartition(":")
    _check_measured(opened, chosen, teacher, run)
    most = ROWS_OF_NORMS if of_norms else ROWS_OF_ERRORS
    places = list(sample) if sample is not None else selection.drawn(chosen, count=most, seed=0)
    values = Values()

    def compute(progress: Progress) -> tuple[Values, int]:
        if run:
            opened.run(run).load()  # a damaged run is told; rows that lack something are left out
        by_dataset: dict[str, list[int]] = {}
        for dataset, row in places:
            by_dataset.setdefault(dataset, []).append(row)
        done = 0
        for dataset, rows in by_dataset.items():
            for start in range(0, len(rows), READ_TOGETHER):
                together = sorted(rows[start : start + READ_TOGETHER])
                values.rows += _measure(opened, dataset, together, teacher=teacher, run=run)
                done += len(together)
                progress(done / len(places))
        return values, VALUE_BYTES * len(values.rows)

    job = opened.jobs.start(("measure", key, sort), compute, partial=values)
    if job.error:
        raise errors.InvalidInput(job.error)
    known = sorted(job.partial.rows, key=lambda entry: (-entry[2] if descending else entry[2], entry[0], entry[1]))
    parts = [f"a sample of {len(places):,} of {len(chosen):,} rows"] if len(places) < len(chosen) else []
    without = len(places) - len(known) if job.state == READY else 0
    parts += [f"{without:,} more have no such tokens (failed, missing or damaged)"] if without else []
    facts = {"state": job.state, "progress": job.progress, "note": ", ".join(parts) or None, "of": len(chosen)}
    return Measured(rows=known, facts=facts)


def _check_measured(opened: Opened, chosen: Selected, teacher: str, run: str) -> None:
    """Refuse to measure what no chosen dataset has."""
    if run and teacher not in opened.run(run).teachers:
        raise errors.MissingName(
            f"run '{run}' has no teacher '{teacher[:80]}'; available: {', '.join(opened.run(run).teachers)}"
        )
    names = [part.dataset.name for part in chosen.parts]
    for place, name in enumerate(names):
        try:
            tokens.shape_of(opened, name, teacher)
        except errors.MissingName:
            if place == len(names) - 1:
                raise
        else:
            return


def _measure(opened: Opened, dataset: str, rows: list[int], *, teacher: str, run: str) -> list[tuple[str, int, float]]:
    """Return (dataset, row, value) of those rows that have what is measured."""
    if run:
        return _measured_one_by_one(opened, dataset, rows, teacher=teacher, run=run)
    try:
        batch = tokens.read_uncached(opened, dataset, rows, teacher)
    except errors.MissingName:
        return []  # another dataset has this teacher
    except (errors.RowsNotOk, errors.MissingShard, errors.Damaged):
        return _measured_one_by_one(opened, dataset, rows, teacher=teacher, run=run)
    prefix = tokens.shape_of(opened, dataset, teacher).prefix_tokens
    means = np.nanmean(token_images.norms(batch[:, prefix:]), axis=1)
    return [(dataset, row, float(mean)) for row, mean in zip(rows, means, strict=True)]


def _measured_one_by_one(
    opened: Opened, dataset: str, rows: list[int], *, teacher: str, run: str
) -> list[tuple[str, int, float]]:
    found = []
    for row in rows:
        try:
            if run:
                value = float(np.nanmean(opened.run(run).error(opened, dataset, row, teacher)))
            else:
                (values,) = tokens.read_uncached(opened, dataset, [row], teacher)
                prefix = tokens.shape_of(opened, dataset, teacher).prefix_tokens
                value = float(np.nanmean(token_images.norms(values[prefix:])))
        except (errors.RowsNotOk, errors.MissingShard, errors.Damaged, errors.MissingName):
            continue
        found.append((dataset, row, value))
    return found
