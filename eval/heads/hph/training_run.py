"""The run directory of a training of the perception head, laid out as that of a student.

recipe.json      the recipe
training.json    what it was trained on: identity of the encoder, number of images, body model
log.jsonl        one record a step
checkpoints/     step-00001000/{model,optimizer}.safetensors, state.json, SHA256SUMS
head.pt          the trained head in the layout of released files, at the end
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.heads.body.base import BodyModel
from eval.heads.hph.recipe import FREE, HphRecipe, from_mapping
from eval.heads.hph.samples import SampleSet
from eval.heads.hph.student import FrozenTokens
from store.common import atomic, strict_json
from store.errors import Conflict, InvalidConfig, MissingFile
from store.format.schema import differences
from train.run import checkpoints
from train.run.directory import delete_content
from train.run.lock import RunLock
from train.run.output import CHECKPOINTS, RECIPE, is_run, refuse_used

TRAINING = "training.json"
HEAD = "head.pt"


def description(encoder: FrozenTokens, data: SampleSet, body: BodyModel) -> dict[str, Any]:
    """Return JSON of what a resumption must not change besides the recipe."""
    numbers = (body.rotations, body.shape_numbers, body.expression_numbers)
    return {
        "encoder": dict(encoder.encoder.identity),
        "images": len(data),
        "body": {"model": type(body).__name__, "numbers": list(numbers), "faces": len(body.faces)},
    }


def prepare(
    out: Path, *, recipe: HphRecipe, training: Mapping[str, Any], lock: RunLock, resume: bool, overwrite: bool
) -> int:
    """Create a run directory, or accept one to resume.

    Args:
        out: run directory.
        recipe: recipe of the run.
        training: result of `description`.
        lock: lock of `out`; acquired here.
        resume: go on with the run in it, from its newest checkpoint.
        overwrite: delete it first.

    Returns:
        Steps that its newest checkpoint has done; 0 for a new run.

    Raises:
        OutputExists: it is not empty and neither option was chosen, or it is no run.
        Conflict: another process trains it, or it was begun with another recipe, encoder, data set or body model.
    """
    refuse_used(out, resume=resume, overwrite=overwrite)
    lock.acquire()
    if resume and is_run(out):
        checkpoints.sweep(out / CHECKPOINTS, locked=lock.held)
        _refuse_another(out, recipe=recipe, training=training)
        return (checkpoints.saved(out / CHECKPOINTS) or [0])[-1]
    delete_content(out)
    atomic.write_text(out / TRAINING, json.dumps(dict(training), indent=2) + "\n")
    atomic.write_text(out / RECIPE, recipe.to_json())
    return 0


def read_recipe(run: Path) -> HphRecipe:
    """Read the recipe of a run.

    Raises:
        MissingFile: the directory is no run.
        Conflict: it is a run of another kind.
    """
    try:
        return from_mapping(_read(run, RECIPE), subject=f"recipe of run '{run}'")
    except InvalidConfig as error:
        raise Conflict(f"run '{run}' is not a training of a perception head: {error}. Choose another --out") from None


def _refuse_another(out: Path, *, recipe: HphRecipe, training: Mapping[str, Any]) -> None:
    stored, asked = (one.model_dump(mode="json", exclude=set(FREE)) for one in (read_recipe(out), recipe))
    problems = differences({"recipe": stored, **_read(out, TRAINING)}, {"recipe": asked, **training})
    if problems:
        raise Conflict(
            f"run '{out}' was started with another recipe or other data. {'. '.join(problems)}. Give those it was "
            "started with, or choose another --out"
        )


def _read(run: Path, name: str) -> dict[str, Any]:
    try:
        return strict_json.parse_object((run / name).read_bytes(), where=f"'{run / name}'")
    except OSError:
        raise MissingFile(f"'{run}' is not a training of a perception head: it has no {name}") from None
