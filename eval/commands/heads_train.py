"""`codistill eval heads train mast3r` and `hph`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from eval.commands.options import DataFolder, Directory, Flag, InputFile, InputFileOrNone, Student
from eval.heads.recipes import hph as hph_recipes
from eval.heads.recipes import mast3r as mast3r_recipes
from eval.heads.recipes.base import HeadRecipe, find
from store.common.config import near_miss, parse
from store.common.constraints import Device
from store.common.interrupts import INTERRUPTED
from store.errors import CodistillError, InvalidInput, MissingFile
from train.recipe.options import unvalidated
from train.run.output import refuse_used

ANNY = "anny"
NOT_OPTIONS = ("kind",)

AnyRecipe = TypeVar("AnyRecipe", bound=HeadRecipe)
RecipeName = Annotated[str, tyro.conf.arg(metavar="NAME|FILE")]


class BodyModelSource:
    """`anny`, or a file of SMPL-X. A `store.common.constraints.Constraint`."""

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        if value != ANNY and not Path(value).is_file():
            hint = near_miss(value, [ANNY])
            raise MissingFile(f"{subject} '{value}': no such file{hint}. Give SMPLX_NEUTRAL.npz, or {ANNY}")


BodySource = Annotated[str, BodyModelSource(), tyro.conf.arg(metavar="FILE|anny")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how a head is trained.

    Args:
        out: directory to write the run to.
        device: device to train on, such as cpu or cuda; auto takes a GPU if there is one.
        resume: continue the run in --out from its newest checkpoint.
        overwrite: delete the run in --out first.
    """

    out: Directory
    device: Device = "auto"
    resume: Flag = False
    overwrite: Flag = False


Run = Annotated[RunOptions, tyro.conf.arg(name="")]


def commands(arguments: Sequence[str]) -> dict[str, Callable[..., int]]:
    """Return the commands; the values of the recipe that a command line names are the defaults of its options."""
    return {
        "mast3r": _mast3r(_named(arguments, mast3r_recipes.RECIPES, mast3r_recipes.DEFAULT)),
        "hph": _hph(_named(arguments, hph_recipes.RECIPES, hph_recipes.DEFAULT)),
    }


def _named(
    arguments: Sequence[str], recipes: Mapping[str, Callable[[], AnyRecipe]], default: str
) -> tuple[str, AnyRecipe]:
    """Return the recipe that `--recipe` names, with its name; the default if there is none, or an unknown one."""
    joined = (one.partition("=")[2] for one in arguments if one.startswith("--recipe="))
    apart = (after for one, after in pairwise(arguments) if one == "--recipe")
    name = next(chain(joined, apart), default)
    with suppress(CodistillError):
        return name, find(name, recipes)
    return default, recipes[default]()


def _chosen(recipe: str, values: Any, recipes: Mapping[str, Callable[[], AnyRecipe]]) -> AnyRecipe:
    """Return the recipe of a command line; all problems are told."""
    return parse(type(find(recipe, recipes)), asdict(values), subject=f"recipe '{recipe}'")


def _mast3r(defaults: tuple[str, mast3r_recipes.Mast3rRecipe]) -> Callable[..., int]:
    options = unvalidated(defaults[1], leave_out=NOT_OPTIONS)

    def mast3r(
        student: Student,
        pairs: InputFile,
        run: Run,
        recipe: RecipeName = defaults[0],
        init: InputFileOrNone = None,
        values: Annotated[Any, tyro.conf.arg(name="")] = options,
    ) -> int:
        """Train MASt3R's decoder and heads on a frozen student.

        example: codistill eval heads train mast3r --student runs/a --pairs PAIRS.toml --out heads/a --recipe laptop

        Args:
            student: run directory, or encoder file in DUNE's layout.
            pairs: datasets of pairs; docs/heads.md says what is in it.
            run: where and how.
            recipe: NAMES, or a .toml file that changes one. The options below change it.
            init: file of MASt3R to begin from by DUNE's rule; without it everything is drawn.
            values: values of the recipe.
        """
        chosen = _chosen(recipe, values, mast3r_recipes.RECIPES)
        refuse_used(run.out, resume=run.resume, overwrite=run.overwrite)
        from eval.heads.mast3r.train_files import train_from_files

        outcome = train_from_files(chosen, student=student, pairs=pairs, init=init, **asdict(run))
        return _report(
            outcome, run.out, f"predict mast3r A.jpg B.jpg --student {student} --weights {run.out}/mast3r.pth"
        )

    return _with_options(mast3r, options, mast3r_recipes.RECIPES)


def _hph(defaults: tuple[str, hph_recipes.HphRecipe]) -> Callable[..., int]:
    options = unvalidated(defaults[1], leave_out=NOT_OPTIONS)

    def hph(
        student: Student,
        data: DataFolder,
        body: BodySource,
        run: Run,
        recipe: RecipeName = defaults[0],
        split: Literal["training", "validation"] = "training",
        means: InputFileOrNone = None,
        values: Annotated[Any, tyro.conf.arg(name="")] = options,
    ) -> int:
        """Train Multi-HMR's human perception head on a frozen student.

        example: codistill eval heads train hph --student runs/a --data BEDLAM --body SMPLX_NEUTRAL.npz --out heads/p

        Args:
            student: run directory, or encoder file in DUNE's layout.
            data: folder in BEDLAM's layout.
            body: body model of the data: SMPLX_NEUTRAL.npz, or anny.
            run: where and how.
            recipe: NAMES, or a .toml file that changes one. The options below change it.
            split: part of the data to train on.
            means: smpl_mean_params.npz to begin from; without it identity rotations.
            values: values of the recipe.
        """
        chosen = _chosen(recipe, values, hph_recipes.RECIPES)
        refuse_used(run.out, resume=run.resume, overwrite=run.overwrite)
        if means is not None and body == ANNY:
            raise InvalidInput("--means are of SMPL's joints and do not fit anny. Leave them out")
        from eval.heads.hph.train_files import train_from_files

        outcome = train_from_files(
            chosen, student=student, data=data, split=split, body=body, means=means, **asdict(run)
        )
        return _report(outcome, run.out, f"predict hph IMAGE --student {student} --weights {run.out}/head.pt")

    return _with_options(hph, options, hph_recipes.RECIPES)


def _with_options(command: Callable[..., int], options: Any, recipes: Mapping[str, Any]) -> Callable[..., int]:
    command.__annotations__["values"] = Annotated[type(options), tyro.conf.arg(name="")]
    command.__doc__ = (command.__doc__ or "").replace("NAMES", ", ".join(recipes))
    return command


def _report(outcome: Any, out: Path, following: str) -> int:
    if outcome.first:
        message = f"trained {outcome.step} steps into '{out}'. Next: codistill eval heads {following} --out PICTURES"
        if not outcome.finished:
            message = f"stopped after step {outcome.step} of {outcome.steps}. Go on with the same command and --resume"
        sys.stdout.write(f"{message}\n")
    return 0 if outcome.finished else INTERRUPTED
