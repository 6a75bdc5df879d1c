"""A run directory: what lies where, and who may write into it.

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

from store.errors import Conflict, Damaged, InvalidInput, MissingFile, OutputExists
from store.format.schema import differences
from train.recipe.config import Recipe, changed, from_mapping

RECIPE = "recipe.json"
CACHE = "cache.json"
CHECKPOINTS = "checkpoints"

Description = dict[str, Any]


def prepare(
    out: Path, *, recipe: Recipe, description: Description, resume: bool = False, overwrite: bool = False
) -> None:
    """Make a run directory, or accept the one that is there.

    Args:
        out: the directory.
        recipe: of the run.
        description: of the caches, from `train.opening.describe`.
        resume: go on with what is there; an empty directory is a new run.
        overwrite: delete the run that is there.

    Raises:
        OutputExists: there is something and neither way out was chosen, or it is no run.
        Conflict: the run there has another recipe or other caches; every difference is shown with both values.
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
    (out / CACHE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (out / RECIPE).write_text(recipe.to_json(), encoding="utf-8")


def _is_blank(out: Path) -> bool:
    """Whether nothing is there but what a run leaves that was killed before it wrote its recipe."""
    return out.is_dir() and all(path.name == CACHE for path in out.iterdir())


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        MissingFile: there is no run.
        InvalidConfig: it is not a recipe that this version knows.
    """
    return from_mapping(_read(run, RECIPE), subject=f"recipe of run '{run}'")


def read_description(run: Path) -> Description:
    """What `train.opening.describe` said of the caches when the run began.

    Raises:
        MissingFile: there is no run.
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
    found = [f"recipe: {line}" for line in changed(read_recipe(out), recipe)]
    found += [f"cache: {line}" for line in differences(_compared(read_description(out)), _compared(description))]
    if found:
        raise Conflict(
            f"run '{out}' cannot be resumed with something else. {'. '.join(found)}. Give what it was started with, or "
            "choose another --out"
        )


def _compared(description: Description) -> dict[str, Any]:
    """What a resumption must find again: a cache may have moved, and `identity` is in its digest."""
    caches = {
        str(number): {key: value for key, value in cache.items() if key != "location"}
        for number, cache in enumerate(description["caches"])
    }
    teachers = {
        name: {key: value for key, value in teacher.items() if key != "identity"}
        for name, teacher in description["teachers"].items()
    }
    return {"image_size": description["image_size"], "teachers": teachers, "caches": caches}
