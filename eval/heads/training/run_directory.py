"""The run directory of a training of a task head, laid out as that of a student.

recipe.json      the recipe
training.json    what it was trained on: identity of the student, data
log.jsonl        one record a step
checkpoints/     step-00001000/{model,optimizer}.safetensors, state.json, SHA256SUMS
and the trained head in the layout of released files, at the end.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from eval.heads.recipes.base import HeadRecipe
from store.common import atomic, strict_json
from store.common.config import parse
from store.errors import Conflict, InvalidConfig, MissingFile
from store.format.schema import differences
from train.run import checkpoints
from train.run.directory import delete_content
from train.run.lock import RunLock
from train.run.output import CHECKPOINTS, RECIPE, is_run, refuse_used

TRAINING = "training.json"

AnyRecipe = TypeVar("AnyRecipe", bound=HeadRecipe)


def prepare(
    out: Path, *, recipe: HeadRecipe, training: Mapping[str, Any], lock: RunLock, resume: bool, overwrite: bool
) -> None:
    """Create a run directory, or accept one to resume.

    Args:
        out: run directory.
        recipe: recipe of the run.
        training: JSON of what a resumption must not change besides the recipe.
        lock: lock of `out`; acquired here.
        resume: go on with the run in it, from its newest checkpoint.
        overwrite: delete it first.

    Raises:
        OutputExists: it is not empty and neither option was chosen, or it is no run.
        Conflict: another process trains it, or it was begun with another recipe or on something else.
    """
    refuse_used(out, resume=resume, overwrite=overwrite)
    lock.acquire()
    refuse_used(out, resume=resume, overwrite=overwrite)  # another training may have begun while it waited
    if resume and is_run(out):
        checkpoints.sweep(out / CHECKPOINTS, locked=lock.held)
        _refuse_another(out, recipe=recipe, training=training)
        return
    delete_content(out)
    atomic.write_text(out / TRAINING, json.dumps(dict(training), indent=2) + "\n")
    atomic.write_text(out / RECIPE, recipe.to_json())


def steps_done(out: Path) -> int:
    """Return the steps that the newest checkpoint of a run has done; 0 without one."""
    return (checkpoints.saved(out / CHECKPOINTS) or [0])[-1]


def read_recipe(run: Path, model: type[AnyRecipe]) -> AnyRecipe:
    """Read the recipe of a run.

    Raises:
        MissingFile: the directory is no run.
        Conflict: it is a run of another kind.
    """
    try:
        return parse(model, _read(run, RECIPE, model), subject=f"recipe of run '{run}'")
    except InvalidConfig as error:
        raise Conflict(f"run '{run}' is not a {model.TITLE}: {error}. Choose another --out") from None


def _refuse_another(out: Path, *, recipe: HeadRecipe, training: Mapping[str, Any]) -> None:
    model = type(recipe)
    stored, asked = (one.model_dump(mode="json", exclude=set(model.FREE)) for one in (read_recipe(out, model), recipe))
    problems = differences({"recipe": stored, **_read(out, TRAINING, model)}, {"recipe": asked, **training})
    if problems:
        raise Conflict(
            f"run '{out}' was started with another recipe or other data. {'. '.join(problems)}. Give those it was "
            "started with, or choose another --out"
        )


def _read(run: Path, name: str, model: type[HeadRecipe]) -> dict[str, Any]:
    try:
        return strict_json.parse_object((run / name).read_bytes(), where=f"'{run / name}'")
    except OSError:
        raise MissingFile(f"'{run}' is not a {model.TITLE}: it has no {name}") from None
