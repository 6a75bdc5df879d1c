"""Checks of a sweep before its first run, and the data that its rows use: all seeds of a row use the same.

`ROW/cache.json` and `rows.npz` of a sweep record the datasets, rows and teachers that a row selected when it was first
begun, so that a seed that begins later trains on the same data, whatever the cache got meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from store.errors import CodistillError, Conflict, InvalidConfig, MissingFile
from train.data.selection import Selection
from train.recipe.config import FREE_SECTIONS, Recipe
from train.run import checkpoints, directory, load
from train.run.output import CHECKPOINTS
from train.run.resume import open_data, refuse_another_cache, refuse_other_data
from train.sweep import PlannedRun, stored_sweep

SETTINGS = "recipe"  # in a row's cache.json: the settings that its selection was made with


def refuse_to_drop(out: Path, runs: Sequence[PlannedRun]) -> None:
    """Refuse a sweep that lacks finished runs of the sweep in `out`: the comparison would lose them.

    Raises:
        Conflict: the runs are named.
    """
    try:
        before = stored_sweep(out)
    except InvalidConfig:  # it cannot be read, so it names nothing
        return
    if before is None:
        return
    planned = {run.directory for run in runs}
    stored = [out / row.name / f"seed-{seed}" for row in before.rows for seed in before.seeds]
    dropped = [run for run in stored if run not in planned and directory.is_finished(run)]
    if dropped:
        listed = ", ".join(str(run.relative_to(out)) for run in dropped)
        title = f" '{before.title}'" if before.title else ""
        raise Conflict(
            f"'{out}' holds the sweep{title} with finished runs that this one does not have: {listed}. Choose another "
            "--out, keep their rows and seeds in the file, or delete their directories"
        )


def check(subject: str, runs: Sequence[PlannedRun], *, caches: Sequence[str]) -> dict[str, Selection]:
    """Refuse, before the first run, what would fail after hours of others.

    A finished run needs no cache; if there is one, it must hold what the run used.

    Args:
        subject: name of the sweep in messages.
        runs: runs from `plan`.
        caches: locations of the caches.

    Returns:
        row -> data of its runs that are not begun.

    Raises:
        InvalidConfig: the problems of all rows.
        Conflict: the runs were begun with another cache.
    """
    problems: dict[str, None] = {}
    selections: dict[str, Selection] = {}
    by_row: dict[str, list[PlannedRun]] = {}
    for run in runs:
        by_row.setdefault(run.row.name, []).append(run)
    for begun in (run for run in runs if directory.begun(run.directory) is not None):
        refuse_another_cache(directory.read_selection(begun.directory), caches, owner=subject)
    for row, of_row in by_row.items():
        try:
            selection = _check_row(of_row, caches)
        except CodistillError as error:
            problems[f"row '{row}': {error}"] = None
        else:
            if selection is not None:
                selections[row] = selection
    if problems:
        raise InvalidConfig(subject, problems)
    return selections


def store_selections(out: Path, selections: Mapping[str, Selection], runs: Sequence[PlannedRun]) -> None:
    """Record the data of rows that have runs to begin."""
    settings = {run.row.name: _settings(run.recipe) for run in runs}
    for row, selection in selections.items():
        description = {**selection.description, SETTINGS: settings[row]}
        directory.write_selection(out / row, replace(selection, description=description))


def stored_selection(row: Path, recipe: Recipe) -> Selection | None:
    """Return the recorded data of a row; None if there is none, or it was recorded for other settings."""
    try:
        stored = directory.read_selection(row)
    except MissingFile:
        return None
    description = dict(stored.description)
    return replace(stored, description=description) if description.pop(SETTINGS, None) == _settings(recipe) else None


def _check_row(runs: Sequence[PlannedRun], caches: Sequence[str]) -> Selection | None:
    """Check the runs of a row; return the data of those to begin, None if all are begun."""
    checked: list[dict[str, Any]] = []
    of_row: Selection | None = None
    for run in runs:
        own = directory.begun(run.directory)
        if own is None:
            continue
        of_row = of_row or own
        if own.description in checked and not directory.recipe_changes(run.directory, run.recipe):
            continue
        if directory.is_finished(run.directory):
            refuse_other_data(own, caches, recipe=run.recipe, out=run.directory)
        else:
            _open(run, caches, own)
        checked.append(own.description)
    new = [run for run in runs if directory.begun(run.directory) is None]
    if not new:
        return None
    selection = of_row or stored_selection(runs[0].directory.parent, runs[0].recipe)
    try:
        return _open(new[0], caches, selection)
    except Conflict:
        if of_row is not None:
            raise
        return _open(new[0], caches, None)  # nothing has used what was recorded


def _open(run: PlannedRun, caches: Sequence[str], stored: Selection | None) -> Selection:
    begins = not checkpoints.saved(run.directory / CHECKPOINTS)
    problems = load.recipe_problems(run.recipe, begins=begins)
    _, selection, _ = open_data(run.recipe, caches, out=run.directory, stored=stored, begins=begins, problems=problems)
    with torch.device("meta"):  # shapes alone: no memory, no time
        load.build_from_seed(run.recipe, selection.description)
    return selection


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return the values of a recipe that all seeds of a row share."""
    own = {"name", "seed", *FREE_SECTIONS}
    return {name: value for name, value in recipe.model_dump(mode="json").items() if name not in own}
