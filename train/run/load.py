"""Students as runs know them: built with their first weights, or read back as trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.state_dicts import load_into, select
from store.errors import InvalidInput
from train.model.distiller import Distiller, build_distiller, encoder_shape
from train.model.encoder import Encoder, EncoderConfig, build_encoder, resize_position
from train.model.projectors import ProjectorConfig, build_projector
from train.objective.targets import TargetNorms, TeacherSpec
from train.recipe.config import Recipe
from train.run import checkpoints, dune_checkpoint, log
from train.run.directory import CHECKPOINTS, RECIPE, Description, read_description, read_recipe

DISTILLER, NORMS = "distiller.", "norms."
_NO_START = "start.checkpoint: this recipe fine-tunes. Name what to start from: --start.checkpoint RUN_OR_DUNE_FILE"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run read back; all modules in host memory.

    Attributes:
        directory: of the run.
        recipe: as resolved when it began.
        step: optimizer steps that its weights have seen.
        distiller: the trained student with its projectors, in evaluation mode.
        target_norms: statistics that teacher tokens are standardised with.
        description: of the caches, as `cache.json` has it.
    """

    directory: Path
    recipe: Recipe
    step: int
    distiller: Distiller
    target_norms: TargetNorms
    description: Description

    @property
    def teachers(self) -> Mapping[str, Mapping[str, Any]]:
        """By name: identity, identity_digest, groups, patch_grid, prefix_tokens, channels."""
        found: dict[str, dict[str, Any]] = self.description["teachers"]
        return found

    @property
    def image_size(self) -> int:
        """Side of the views that it was trained on, px."""
        return int(self.description["image_size"])

    @cached_property
    def log(self) -> list[log.Record]:
        """Every record of `log.jsonl`; see `train.log.read` for one kind only."""
        return log.read(self.directory)

    def initial(self) -> Distiller:
        """The student as it was before its first step, rebuilt from the seed (and the start checkpoint)."""
        return build(self.recipe, self.description)[0].eval()


def load(directory: str | Path, *, step: int | None = None) -> Run:
    """Read a run back.

    Args:
        directory: `--out` of the training.
        step: of the checkpoint; None takes the newest.

    Raises:
        MissingFile: no run, or no such checkpoint; the available ones are listed.
        Damaged: the checkpoint cannot be read.
    """
    place = Path(directory)
    recipe, description = read_recipe(place), read_description(place)
    checkpoint = checkpoints.load(place / CHECKPOINTS, step, optimizer=False)
    distiller, norms = fresh(recipe, description)
    restore(distiller, norms, checkpoint.model, source=f"checkpoint of step {checkpoint.step} of run '{place}'")
    return Run(
        directory=place,
        recipe=recipe,
        step=checkpoint.step,
        distiller=distiller.eval(),
        target_norms=norms.eval(),
        description=description,
    )


def problems_of(recipe: Recipe, *, begins: bool = True) -> list[str]:
    """What is wrong with a recipe whatever the caches hold, and would show once its student is built.

    Args:
        recipe: to look at.
        begins: the weights are yet to come from `start.checkpoint`, if there is one; not from a run to be resumed.
    """
    found = []
    start = recipe.start.checkpoint
    if begins and recipe.start.required and not start:
        found.append(_NO_START)
    elif begins and start and not Path(start).exists():
        found.append(f"start.checkpoint: '{start}' does not exist. Give a run directory or a DUNE checkpoint")
    where = "student"
    try:
        with torch.device("meta"):  # shapes alone: no memory, no time
            encoder = build_encoder(_encoder_config(recipe), pos_grid=(1, 1))
            where = "projector"
            patches_alone = TeacherSpec(channels=1, prefix_tokens=0)
            build_projector(_projector_config(recipe), encoder=encoder_shape(encoder), teacher=patches_alone)
    except InvalidInput as error:
        found.append(f"{where}: {error}")
    return found


def build(recipe: Recipe, description: Description) -> tuple[Distiller, TargetNorms]:
    """The student and target statistics that a run of this recipe begins with, in host memory.

    Args:
        recipe: of the run; `start.checkpoint` gives the weights if there is one.
        description: of the caches, from `train.opening.describe` or a run's `cache.json`.

    Raises:
        InvalidInput: the recipe needs a checkpoint, or its tensors do not fit this student.
    """
    if recipe.start.required and not recipe.start.checkpoint:
        raise InvalidInput(f"recipe '{recipe.name}': {_NO_START}")
    distiller, norms = fresh(recipe, description)
    if recipe.start.checkpoint:
        _begin_from(Path(recipe.start.checkpoint), distiller, norms)
    return distiller, norms


def state_of(distiller: Distiller, norms: TargetNorms) -> dict[str, Tensor]:
    """What a checkpoint holds of the model."""
    parts: tuple[tuple[str, nn.Module], ...] = ((DISTILLER, distiller), (NORMS, norms))
    return {prefix + name: tensor for prefix, module in parts for name, tensor in module.state_dict().items()}


def restore(distiller: Distiller, norms: TargetNorms, state: Mapping[str, Tensor], *, source: str) -> None:
    """Put back what `state_of` gave.

    Raises:
        InvalidInput: the tensors are those of another student.
    """
    load_into(distiller, select(state, DISTILLER), source=source)
    load_into(norms, select(state, NORMS), source=source)


def fresh(recipe: Recipe, description: Description) -> tuple[Distiller, TargetNorms]:
    """Return student and norms with the weights that the seed gives, whatever `start.checkpoint` says."""
    teachers = {
        name: TeacherSpec(channels=info["channels"], prefix_tokens=info["prefix_tokens"])
        for name, info in description["teachers"].items()
    }
    rows, columns = next(iter(description["teachers"].values()))["patch_grid"]
    distiller = build_distiller(
        encoder=_encoder_config(recipe),
        projector=_projector_config(recipe),
        teachers=teachers,
        image_size=description["image_size"],
        patch_grid=(rows, columns),
        seed=recipe.seed,
    )
    return distiller, TargetNorms(teachers)


def _encoder_config(recipe: Recipe) -> EncoderConfig:
    return EncoderConfig(**recipe.student.model_dump(exclude={"image_size"}))


def _projector_config(recipe: Recipe) -> ProjectorConfig:
    return ProjectorConfig(**recipe.projector.model_dump())


def _begin_from(path: Path, distiller: Distiller, norms: TargetNorms) -> None:
    """Copy the encoder, and the projectors and statistics of the teachers that both know."""
    source = f"start.checkpoint '{path}'"
    encoder: Encoder
    if (path / RECIPE).is_file():
        run = load(path)
        encoder, projectors, known = run.distiller.encoder, run.distiller.projectors, run.target_norms
    else:
        file = dune_checkpoint.load(path)
        encoder = file.encoder
        projectors = file.distiller.projectors if file.distiller else nn.ModuleDict()
        known = file.norms or TargetNorms({})
    if encoder.pos_grid != distiller.encoder.pos_grid:
        resize_position(encoder, distiller.encoder.pos_grid)
    load_into(distiller.encoder, encoder.state_dict(), source=source)
    for name, projector in distiller.projectors.items():
        if name in projectors:
            load_into(projector, projectors[name].state_dict(), source=f"{source}, projector of '{name}'")
        if name in known.norms:
            load_into(norms.norms[name], known.norms[name].state_dict(), source=f"{source}, statistics of '{name}'")
