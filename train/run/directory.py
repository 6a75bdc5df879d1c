"""The run directory: its files, and the checks before a training writes into it.

recipe.json      the resolved recipe
cache.json       uuids and status digests of the caches, identities of the teachers
log.jsonl        one record per step (`kind` step) and per held-out measurement (`kind` fidelity)
checkpoints/     step-00000100/{model,optimizer}.safetensors, state.json, SHA256SUMS
tensorboard/     event files
curves.png
.lock            locked while the run is trained; who did so last
"""

import json
import shutil
from pathlib import Path
from typing import Any

from store.common import atomic
from store.errors import Conflict, Damaged, InvalidInput, MissingFile, OutputExists
from store.format.schema import differences
from train.data.open_caches import Description
from train.recipe.config import Recipe, changed, from_mapping
from train.run import checkpoints
from train.run.lock import FILE as LOCK
from train.run.lock import RunLock

RECIPE = "recipe.json"
CACHE = "cache.json"
CHECKPOINTS = "checkpoints"


def lock_run(out: Path, lock: RunLock) -> None:
    """Lock a run that exists already, before anything is read from it, and remove what crashed saves left in it.

    Other directories stay untouched.

    Raises:
        Conflict: another process trains the run.
    """
    if (out / RECIPE).is_file():
        lock.acquire()
        checkpoints.sweep(out / CHECKPOINTS, locked=lock.held)


def prepare(
    out: Path,
    *,
    recipe: Recipe,
    description: Description,
    lock: RunLock,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Create a run directory, or accept an existing run to resume.

    Args:
        out: run directory.
        recipe: recipe of the run.
        description: description of the caches, from `train.data.open_caches.describe`.
        lock: lock of `out`; acquired here unless that is done.
        resume: accept an existing run of the same recipe and caches.
        overwrite: delete an existing run.

    Raises:
        OutputExists: the directory is not empty and neither option was chosen, or it is not a run.
        Conflict: the existing run has another recipe or other caches, where every difference is shown with both values;
            or another process trains it.
    """
    if resume and overwrite:
        raise InvalidInput("--resume and --overwrite exclude each other. Choose one")
    if out.exists() and not _is_blank(out) and not (out / RECIPE).is_file():
        raise OutputExists(f"output '{out}' is not empty and not a run. Choose another --out")
    lock.acquire()
    if not _is_blank(out):
        if resume:
            _refuse_another(out, recipe=recipe, description=description)
            return
        if not overwrite:
            raise OutputExists(
                f"output '{out}' is not empty. Pass --resume to continue it, --overwrite to delete it, or choose "
                "another --out"
            )
        _delete_content(out)
    atomic.write_text(out / CACHE, json.dumps(description, indent=2) + "\n")
    atomic.write_text(out / RECIPE, recipe.to_json())


def _is_blank(out: Path) -> bool:
    """Tell whether a directory is empty but for the files of a run that was killed before it wrote its recipe."""
    ours = {CACHE, LOCK}
    return out.is_dir() and all(path.name in ours or ".partial" in path.suffixes for path in out.iterdir())


def _delete_content(out: Path) -> None:
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
    """
    return _read(run, CACHE)


def _read(run: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((run / name).read_text(encoding="utf-8"))
    except OSError:
        raise MissingFile(f"'{run}' is not a run: it has no {name}. Give the --out of codistill train run") from None
    except ValueError as error:
        raise Damaged(f"'{run / name}' is not JSON ({error})") from None
    return dict(content)


def _refuse_another(out: Path, *, recipe: Recipe, description: Description) -> None:
    problems = [f"recipe: {line}" for line in changed(read_recipe(out), recipe)]
    problems += [f"cache: {line}" for line in differences(_compared(read_description(out)), _compared(description))]
    if problems:
        raise Conflict(
            f"run '{out}' was started with another recipe or other caches. {'. '.join(problems)}. Give those it was "
            "started with, or choose another --out"
        )


def _compared(description: Description) -> dict[str, Any]:
    """Return the part of a description that a resumption must not change: a cache may have moved."""
    caches = {
        str(number): {key: value for key, value in cache.items() if key != "location"}
        for number, cache in enumerate(description["caches"])
    }
    teachers = {
        name: {key: value for key, value in teacher.items() if key != "identity"}  # its digest stays
        for name, teacher in description["teachers"].items()
    }
    return {"image_size": description["image_size"], "teachers": teachers, "caches": caches}
