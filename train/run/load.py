"""Students of runs: built with their first weights, or loaded as trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.state_dicts import load_into, select
from store import TeacherInfo
from store.errors import InvalidInput
from train.data.open_caches import Description, described_teachers
from train.memory import too_large
from train.model.distiller import Distiller, build_distiller, encoder_shape
from train.model.encoder import Encoder, build_encoder, resize_position
from train.model.projectors import build_projector
from train.objective.targets import TargetNorms
from train.recipe.config import Recipe
from train.run import checkpoints, dune_checkpoint, log
from train.run.directory import read_description, read_recipe
from train.run.output import CHECKPOINTS, RECIPE
from train.run.trackers import missing as missing_trackers

DISTILLER, NORMS = "distiller.", "norms."  # prefixes in a checkpoint
_NO_START = "start.checkpoint: this recipe fine-tunes. Name what to start from: --start.checkpoint RUN_OR_DUNE_FILE"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A loaded run; all modules are in host memory.

    Attributes:
        directory: run directory.
        recipe: complete recipe of the run.
        step: number of optimizer steps behind the weights.
        distiller: trained student with its projectors, in evaluation mode.
        target_norms: statistics to standardise teacher tokens with.
        description: content of `cache.json`.
    """

    directory: Path
    recipe: Recipe
    step: int
    distiller: Distiller
    target_norms: TargetNorms
    description: Description

    @cached_property
    def teachers(self) -> Mapping[str, TeacherInfo]:
        """Teachers of the run, by name."""
        return described_teachers(self.description)

    @property
    def image_size(self) -> int:
        """Side of the training views, px."""
        return int(self.description["image_size"])

    @cached_property
    def log(self) -> list[log.Record]:
        """Records of `log.jsonl`; `train.run.log.read` returns those of one kind."""
        return log.read(self.directory)

    def initial(self) -> Distiller:
        """Rebuild the student as it was before its first step, from the seed and the start checkpoint."""
        return build_initial(self.recipe, self.description)[0].eval()


def load(directory: str | Path, *, step: int | None = None) -> Run:
    """Load a run.

    Args:
        directory: run directory, the `--out` of the training.
        step: step of the checkpoint; None takes the newest.

    Raises:
        MissingFile: the directory is not a run or has no such checkpoint; the available steps are listed.
        Damaged: the checkpoint cannot be read.
    """
    path = Path(directory)
    recipe, description = read_recipe(path), read_description(path)
    checkpoint = checkpoints.load(path / CHECKPOINTS, step, optimizer=False)
    distiller, norms = build_from_seed(recipe, description)
    restore_model(distiller, norms, checkpoint.model, source=f"checkpoint of step {checkpoint.step} of run '{path}'")
    return Run(
        directory=path,
        recipe=recipe,
        step=checkpoint.step,
        distiller=distiller.eval(),
        target_norms=norms.eval(),
        description=description,
    )


def recipe_problems(recipe: Recipe, *, begins: bool = True) -> list[str]:
    """Return the problems of a recipe that no cache can solve and that building its student would show.

    Args:
        recipe: recipe to check.
        begins: the run begins, so that `start.checkpoint` must be there; False for a run that is resumed.
    """
    problems = missing_trackers(recipe.log)
    start = recipe.start.checkpoint
    if begins and recipe.start.required and not start:
        problems.append(_NO_START)
    elif begins and start and not Path(start).exists():
        problems.append(f"start.checkpoint: '{start}' does not exist. Give a run directory or a DUNE checkpoint")
    section = "student"
    try:
        with torch.device("meta"):  # shapes alone: no memory, no time
            encoder = build_encoder(recipe.student, pos_grid=(1, 1))
            section = "projector"
            projector = build_projector(recipe.projector, encoder=encoder_shape(encoder), prefix_tokens=0, channels=1)
        parameters = sum(tensor.numel() for part in (encoder, projector) for tensor in part.parameters())
        size = too_large(parameters, device=recipe.machine.device)
        problems += [f"student and projector: {size}"] if size else []
    except InvalidInput as error:
        problems.append(f"{section}: {error}")
    return problems


def build_initial(recipe: Recipe, description: Description) -> tuple[Distiller, TargetNorms]:
    """Build the student and the target statistics that a run begins with, in host memory.

    Args:
        recipe: recipe of the run; its `start.checkpoint` gives the weights if there is one.
        description: description of the caches, from `train.data.open_caches.describe` or a run's `cache.json`.

    Raises:
        InvalidInput: the recipe needs a checkpoint, or its tensors do not fit this student.
    """
    if recipe.start.required and not recipe.start.checkpoint:
        raise InvalidInput(f"recipe '{recipe.name}': {_NO_START}")
    distiller, norms = build_from_seed(recipe, description)
    if recipe.start.checkpoint:
        _copy_start_weights(Path(recipe.start.checkpoint), distiller, norms)
    return distiller, norms


def model_tensors(distiller: Distiller, norms: TargetNorms) -> dict[str, Tensor]:
    """Return the tensors of student and statistics as a checkpoint names them."""
    parts: tuple[tuple[str, nn.Module], ...] = ((DISTILLER, distiller), (NORMS, norms))
    return {prefix + name: tensor for prefix, module in parts for name, tensor in module.state_dict().items()}


def restore_model(distiller: Distiller, norms: TargetNorms, state: Mapping[str, Tensor], *, source: str) -> None:
    """Restore the tensors that `model_tensors` returned.

    Raises:
        InvalidInput: the tensors do not fit this student.
    """
    load_into(distiller, select(state, DISTILLER), source=source)
    load_into(norms, select(state, NORMS), source=source)


def build_from_seed(recipe: Recipe, description: Description) -> tuple[Distiller, TargetNorms]:
    """Build the student with random weights from the seed, ignoring `start.checkpoint`, and unset statistics."""
    teachers = described_teachers(description)
    distiller = build_distiller(
        student=recipe.student,
        projector=recipe.projector,
        teachers=teachers,
        image_size=description["image_size"],
        patch_grid=next(iter(teachers.values())).patch_grid,
        seed=recipe.seed,
    )
    return distiller, TargetNorms(teachers)


def _copy_start_weights(path: Path, distiller: Distiller, norms: TargetNorms) -> None:
    """Copy the encoder of a checkpoint, and its projectors and statistics of the teachers that this student has too."""
    source = f"start.checkpoint '{path}'"
    encoder: Encoder
    if (path / RECIPE).is_file():
        run = load(path)
        encoder, projectors, statistics = run.distiller.encoder, run.distiller.projectors, run.target_norms
    else:
        file = dune_checkpoint.load(path)
        encoder = file.encoder
        projectors = file.distiller.projectors if file.distiller else nn.ModuleDict()
        statistics = file.norms or TargetNorms({})
    if encoder.pos_grid != distiller.encoder.pos_grid:
        resize_position(encoder, distiller.encoder.pos_grid)
    load_into(distiller.encoder, encoder.state_dict(), source=source)
    for name, projector in distiller.projectors.items():
        if name in projectors:
            load_into(projector, projectors[name].state_dict(), source=f"{source}, projector of '{name}'")
        if name in statistics.norms:
            load_into(
                norms.norms[name], statistics.norms[name].state_dict(), source=f"{source}, statistics of '{name}'"
            )
