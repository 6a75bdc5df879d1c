"""`codistill train`: train a student from a cache, or a grid of them."""

import sys
from collections.abc import Callable
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel

from store.common.cli import INTERRUPTED
from store.common.cli import run as run_program
from store.errors import CodistillError, InvalidInput
from train.recipe.config import Recipe, from_mapping
from train.recipe.named import RECIPES, find

RecipeName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
CacheList = Annotated[str, tyro.conf.arg(metavar="CACHE[,CACHE]")]
Directory = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def main(argv: list[str] | None = None) -> int:
    """Run `codistill train ...` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(
        "codistill train",
        "Train students from a sealed cache: no teacher, no source image, no decoding.",
        {"run": _run_command(_named_recipe(arguments)), "sweep": sweep, "export": export},
        argv=arguments,
    )


def _run_command(defaults: Recipe) -> Callable[..., int]:
    """The `run` command, whose options have the values of one recipe as defaults."""
    options = _unchecked(defaults)

    def run(
        recipe: RecipeName,
        cache: CacheList,
        out: Directory,
        resume: Flag = False,
        overwrite: Flag = False,
        values: Annotated[Any, tyro.conf.arg(name="")] = options,
    ) -> int:
        """Train one student. example: codistill train run demo --cache demo/cache --out demo/run --optim.lr 1e-3

        Args:
            recipe: name (NAMES), or a .toml or .json file; write it right after `run`. The options below start from it.
            cache: sealed caches, separated by commas.
            out: run directory.
            resume: go on from the last checkpoint in --out.
            overwrite: delete the run in --out first.
            values: the recipe's values.
        """
        chosen = find(recipe)
        if chosen != defaults:
            raise InvalidInput(f"write the recipe right after run: codistill train run {recipe} --cache ...")
        resolved = from_mapping(asdict(values), subject=f"recipe '{recipe}'")
        from train.loop import train

        outcome = train(resolved, caches=cache.split(","), out=out, resume=resume, overwrite=overwrite)
        said = f"trained {outcome.step} steps into '{out}'. Next: codistill eval fidelity {out}"
        if not outcome.finished:
            said = f"stopped after step {outcome.step} of {outcome.steps}. Go on with the same command and --resume"
        if outcome.first:
            print(said)
        return 0 if outcome.finished else INTERRUPTED

    run.__annotations__["values"] = Annotated[type(options), tyro.conf.arg(name="")]
    run.__doc__ = (run.__doc__ or "").replace("NAMES", ", ".join(RECIPES))
    return run


def sweep(file: Annotated[Path, tyro.conf.Positional], cache: CacheList, out: Directory) -> int:
    """Train a grid of students and compare them. example: codistill train sweep sweeps/table1.toml --cache C --out RUNS

    Runs that are finished are kept, others go on from their last checkpoint; a run that fails does not stop the rest.

    Args:
        file: TOML that says what varies.
        cache: sealed caches, separated by commas.
        out: directory of the runs and of comparison.md, .csv and .png.
    """
    from train import sweep_table
    from train.sweep import FAILED, STOPPED, check, keep, plan, run_all

    wanted, runs = plan(file, out)
    check(f"sweep '{file}'", runs, caches=cache.split(","))
    keep(wanted, out)
    done = []
    for number, item in enumerate(run_all(runs, caches=cache.split(",")), start=1):
        done.append(item)
        what = f"{item.run.row.name}, seed {item.run.seed}"
        print(f"[{number}/{len(runs)}] {what}: {item.status}{f': {item.problem}' if item.problem else ''}", flush=True)
    files = sweep_table.write(out, title=wanted.title, rows=wanted.rows, baseline=wanted.baseline, done=done)
    print("comparison: " + ", ".join(str(path) for path in files))
    print(f"for one page with pictures: codistill eval report {out} --out REPORT")
    ends = {item.status for item in done}
    return INTERRUPTED if STOPPED in ends else 1 if FAILED in ends else 0


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    format: Literal["timm", "dune"] = "timm",
    step: int | None = None,
    image_size: int | None = None,
) -> None:
    """Hand a trained student on. example: codistill train export runs/a --out students/a

    Args:
        run: run directory.
        out: new directory (timm: encoder as safetensors, JSON and a model card) or file (dune: a .pth with projectors).
        format: timm reads it as local-dir:PATH; dune is what the loader of naver/dune reads.
        step: checkpoint to take; None takes the newest.
        image_size: side of the images that timm's model takes, px; None takes the one trained on.
    """
    from train.export import export_run
    from train.run.load import load

    export_run(load(run, step=step), out, kind=format, image_size=image_size)
    use = f'timm.create_model("local-dir:{out}", pretrained=True)' if format == "timm" else "naver/dune's loader"
    print(f"exported to '{out}'. Use: {use}")


def _named_recipe(arguments: list[str]) -> Recipe:
    """The recipe that the command line names; DUNE's base where it names none, or one that `run` will refuse."""
    try:
        return find(arguments[1])
    except (IndexError, CodistillError):
        return RECIPES["dune-base-336"]()


def _unchecked(model: BaseModel) -> Any:
    """A dataclass instance with the same fields, values and help, but without validation.

    So all problems of a command line are found together, in `from_mapping`, and said as for files.
    """
    fields: list[tuple[str, Any, Any]] = []
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            inner = _unchecked(value)
            fields.append((name, type(inner), field(default=inner)))
        else:
            fields.append((name, info.annotation, field(default=value)))
    mirror = make_dataclass(type(model).__name__, fields, frozen=True)
    mirror.__doc__ = type(model).__doc__
    return mirror()


if __name__ == "__main__":
    sys.exit(main())
