"""The run directory: its files, and the checks before a training writes into it.

recipe.json      the resolved recipe
cache.json       caches, datasets and teachers that the run uses
rows.npz         rows that it uses of each dataset, as bits, and digests of their pixels
log.jsonl        one record per step (`kind` step) and per held-out measurement (`kind` fidelity)
checkpoints/     step-00000100/{model,optimizer}.safetensors, state.json, SHA256SUMS
tensorboard/     event files
trackers.json    identity of the run in experiment trackers; wandb/ beside it
curves.png
.lock            locked while the run is trained; who did so last
"""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from store.common import atomic, strict_json
from store.errors import Conflict, Damaged, MissingFile
from store.format.schema import differences
from train.data.open_caches import Description
from train.data.selection import Selection
from train.recipe.config import Recipe, changed, from_mapping
from train.run import checkpoints
from train.run import description as description_file
from train.run.lock import FILE as LOCK
from train.run.lock import RunLock
from train.run.output import CACHE, CHECKPOINTS, RECIPE, ROWS, is_blank, is_run, refuse_used


def lock_run(out: Path, lock: RunLock) -> None:
    """Lock a run that exists already, before anything is read from it, and remove what crashed saves left in it.

    Other directories stay untouched.

    Raises:
        Conflict: another process trains the run.
    """
    if is_run(out):
        lock.acquire()
        checkpoints.sweep(out / CHECKPOINTS, locked=lock.held)


def prepare(
    out: Path,
    *,
    recipe: Recipe,
    selection: Selection,
    lock: RunLock,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Create a run directory, or accept an existing run to resume.

    Args:
        out: run directory.
        recipe: recipe of the run.
        selection: datasets, rows and teachers of the run: those stored in an existing run, or new ones.
        lock: lock of `out`; acquired here unless that is done.
        resume: accept an existing run of the same recipe and selection.
        overwrite: delete an existing run.

    Raises:
        OutputExists: the directory is not empty and neither option was chosen, or it is not a run.
        Conflict: the existing run has another recipe or other caches, where every difference is shown with both values;
            or another process trains it.
    """
    refuse_used(out, resume=resume, overwrite=overwrite)
    lock.acquire()
    refuse_used(out, resume=resume, overwrite=overwrite)  # another training may have begun while it waited
    if not is_blank(out):
        if resume:
            _refuse_another(out, recipe=recipe, selection=selection)
            return
        delete_content(out)
    write_selection(out, selection)
    atomic.write_text(out / RECIPE, recipe.to_json())


def delete_content(out: Path) -> None:
    """Delete a run but for its lock; the recipe goes last, so that what a crash leaves is still known as a run."""
    for path in sorted(out.iterdir(), key=lambda path: path.name == RECIPE):
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_recipe(run: Path) -> Recipe:
    """Read the recipe of a run.

    Raises:
        MissingFile: the directory is not a run.
        InvalidConfig: this version does not know the recipe's values.
    """
    return from_mapping(_read(run, RECIPE), subject=f"recipe of run '{run}'")


def read_description(run: Path) -> Description:
    """Read the description of the caches that the run was started with.

    Raises:
        MissingFile: the directory is not a run.
        Damaged: the file is not such a description.
    """
    return description_file.check(_read(run, CACHE), where=f"'{run / CACHE}'")


def is_finished(run: Path) -> bool:
    """Tell whether all steps of a run are done and saved; False where there is no run."""
    steps = checkpoints.saved(run / CHECKPOINTS)
    return bool(steps) and (run / RECIPE).is_file() and steps[-1] >= read_recipe(run).steps


def begun(out: Path) -> Selection | None:
    """Return the selection of the run in `out`; None if no run was begun there."""
    return read_selection(out) if is_run(out) else None


def recipe_changes(out: Path, recipe: Recipe) -> list[str]:
    """Return the differences between a recipe and that of the run in `out` which forbid a resumption."""
    return [f"recipe: {line}" for line in changed(read_recipe(out), recipe)]


def write_selection(directory: Path, selection: Selection) -> None:
    """Write `cache.json` and `rows.npz`."""
    if selection.rows is not None:
        arrays: dict[str, Any] = dict(selection.rows)
        with atomic.replacing(directory / ROWS) as partial:
            np.savez_compressed(partial, **arrays)
    atomic.write_text(directory / CACHE, json.dumps(selection.description, indent=2) + "\n")


def read_selection(directory: Path) -> Selection:
    """Read what `write_selection` wrote; runs that were begun before there was `rows.npz` have no rows.

    Raises:
        MissingFile: there is no `cache.json`.
        Damaged: a file cannot be read.
    """
    description, path = read_description(directory), directory / ROWS
    if not path.exists():
        return Selection(description=description)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return Selection(description=description, rows=dict(file))
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise Damaged(
            f"'{path}' cannot be read ({error}). Restore it from a copy; without it a run is bound to the "
            "status of all rows instead, so deleting it works while the cache is as it was"
        ) from error


def _read(run: Path, name: str) -> dict[str, Any]:
    try:
        return strict_json.parse_object((run / name).read_bytes(), where=f"'{run / name}'")
    except OSError:
        raise MissingFile(f"'{run}' is not a run: it has no {name}. Give the --out of codistill train run") from None


def _refuse_another(out: Path, *, recipe: Recipe, selection: Selection) -> None:
    problems = recipe_changes(out, recipe)
    stored = read_description(out)
    if _compared(stored) != _compared(selection.description):  # two processes began it at once
        problems += [f"cache: {line}" for line in differences(_compared(stored), _compared(selection.description))]
    if problems:
        raise Conflict(
            f"run '{out}' was started with another recipe or other data. {'. '.join(problems)}. Give those it was "
            "started with, or choose another --out"
        )


def _compared(description: Description) -> dict[str, Any]:
    """Return the part of a description that a resumption must not change: a cache may have moved."""
    caches = {
        str(number): {key: value for key, value in cache.items() if key != "location"}
        for number, cache in enumerate(description["caches"])
    }
    return {"image_size": description["image_size"], "teachers": description["teachers"], "caches": caches}
