"""The run directory: its files, and the checks before a training writes into it.

recipe.json      the resolved recipe
cache.json       uuids and status digests of the caches, identities of the teachers
log.jsonl        one record per step (`kind` step) and per held-out measurement (`kind` fidelity)
checkpoints/     step-00000100/{model,optimizer}.safetensors, state.json
tensorboard/     event files
curves.png
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

RECIPE = "recipe.json"
CACHE = "cache.json"
CHECKPOINTS = "checkpoints"


def prepare(
    out: Path, *, recipe: Recipe, description: Description, resume: bool = False, overwrite: bool = False
) -> None:
    """Create a run directory, or accept an existing run to resume.

    Args:
        out: run directory.
        recipe: recipe of the run.
        description: description of the caches, from `train.data.open_caches.describe`.
        resume: accept an existing run of the same recipe and caches.
        overwrite: delete an existing run.

    Raises:
        OutputExists: the directory is not empty and neither option was chosen, or it is not a run.
        Conflict: the existing run has another recipe or other caches; every difference is shown with both values.
    """
    if resume and overwrite:
        raise InvalidInput("--resume and --overwrite exclude each other. Choose one")
    if out.exists() and not _is_blank(out):
        if not (out / RECIPE).is_file():
            raise OutputExists(f"output '{out}' is not empty and not a run. Choose another --out")
        if resume:
            _refuse_another(out, recipe=recipe, description=description)
            return
        if not overwrite:
            raise OutputExists(
                f"output '{out}' is not empty. Pass --resume to continue it, --overwrite to delete it, or choose "
                "another --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out / CACHE, json.dumps(description, indent=2) + "\n")
    atomic.write_text(out / RECIPE, recipe.to_json())


def _is_blank(out: Path) -> bool:
    """Tell whether a directory is empty but for the files of a run that was killed before it wrote its recipe."""
    return out.is_dir() and all(path.name == CACHE or ".partial" in path.suffixes for path in out.iterdir())


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
