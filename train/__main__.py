"""`codistill train`: train a student from a cache, train and compare a grid of students, export one."""

from store.common.interrupts import INTERRUPTED, end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported


import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from store.cache.argument import ExistingCaches
from store.common.arguments import COMMAS, names_of
from store.common.cli import run as run_program
from store.common.constraints import AtLeast, ExistingFolder, Positive
from store.errors import CodistillError, InvalidInput
from train.recipe.config import Recipe, from_mapping
from train.recipe.named import RECIPES, find
from train.recipe.options import unvalidated
from train.run.output import is_run, refuse_used

WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".tar", ".zip")
DEFAULT_RECIPE = "dune-base-336"  # whose values `codistill train run --help` shows

A_RUN = ExistingFolder(kind="run", holds="recipe.json", advice="Give the --out of codistill train run")

RecipeName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
Caches = Annotated[str, COMMAS, tyro.conf.arg(metavar="CACHE[,CACHE]")]  # what is finished needs none: checked below
Directory = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def main(argv: list[str] | None = None) -> int:
    """Run `codistill train ...` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(
        "codistill train",
        "Train students from a sealed cache: no teacher, no source image, no decoding.",
        {"run": run_command(first_recipe(arguments)), "sweep": sweep, "export": export},
        argv=arguments,
    )


def first_recipe(arguments: Sequence[str]) -> Recipe:
    """Parse the beginning of a command line, `run RECIPE`, because the options that follow depend on the recipe.

    Every option of `run` has the recipe's value as its default, so that `--help` shows it. Without a recipe there, or
    with an unknown one, they are those of `DEFAULT_RECIPE`; `run` then says what is wrong.
    """
    match arguments:
        case ["run", name, *_]:
            with suppress(CodistillError):
                return find(name)
    return find(DEFAULT_RECIPE)


def run_command(defaults: Recipe) -> Callable[..., int]:
    """Return the `run` command with the values of one recipe as the defaults of its options."""
    options = unvalidated(defaults)

    def run(
        recipe: RecipeName,
        cache: Caches,
        out: Directory,
        resume: Flag = False,
        overwrite: Flag = False,
        values: Annotated[Any, tyro.conf.arg(name="")] = options,
    ) -> int:
        """Train one student. example: codistill train run demo --cache demo/cache --out demo/run --optim.lr 1e-3

        Args:
            recipe: recipe to train, right after `run`: NAMES, or a .toml or .json file. The options below change it.
            cache: locations of sealed caches, separated by commas.
            out: directory to write the run to.
            resume: continue the run in --out from its newest checkpoint.
            overwrite: delete the run in --out first.
            values: values of the recipe.
        """
        if find(recipe) != defaults:
            raise InvalidInput(f"write the recipe right after run: codistill train run {recipe} --cache ...")
        chosen = from_mapping(asdict(values), subject=f"recipe '{recipe}'")
        refuse_used(out, resume=resume, overwrite=overwrite)
        if not (resume and is_run(out)):
            refuse_caches(chosen, cache)
        from train.loop import train

        outcome = train(chosen, caches=names_of(cache) or [], out=out, resume=resume, overwrite=overwrite)
        message = f"trained {outcome.step} steps into '{out}'. Next: codistill eval fidelity {out}"
        if not outcome.finished:
            message = f"stopped after step {outcome.step} of {outcome.steps}. Go on with the same command and --resume"
        if outcome.first:
            print(message)
        return 0 if outcome.finished else INTERRUPTED

    run.__annotations__["values"] = Annotated[type(options), tyro.conf.arg(name="")]
    run.__doc__ = (run.__doc__ or "").replace("NAMES", ", ".join(RECIPES))
    return run


def refuse_caches(recipe: Recipe, cache: str) -> None:
    """Refuse caches that are not there or do not fit a recipe, as far as that is known without torch."""
    ExistingCaches().check("--cache", cache)
    from train.data.open_caches import refuse_running_averages_of_codes

    refuse_running_averages_of_codes(recipe, names_of(cache) or [])


def sweep(
    sweep: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SWEEP")],
    cache: Caches,
    out: Directory,
    jobs: Positive = 1,
) -> int:
    """Train a grid of students and compare them. example: codistill train sweep table1 --cache C --out RUNS

    The same command again continues: finished runs stay, others resume from their newest checkpoint. A run that fails
    does not stop the others.

    Args:
        sweep: demo-table1, demo-table2, table1, table2, or a TOML file with the recipe and the values that vary.
        cache: locations of sealed caches.
        out: directory to write the runs and comparison.md, .csv and .png to.
        jobs: number of runs at once; on several GPUs they take turns, on the CPU they share the cores.
    """
    from train.sweep import FAILED, STOPPED, SWEEP, plan, store_sweep

    planned, runs = plan(sweep, out)
    caches = names_of(cache) or ()
    if not (out / SWEEP).exists():
        ExistingCaches().check("--cache", cache)
    from train import sweep_table
    from train.run.lock import RunLock
    from train.sweep_check import check, refuse_to_drop, store_selections
    from train.sweep_jobs import run_all

    refuse_to_drop(out, runs)
    selections = check(f"sweep '{sweep}'", runs, caches=caches)
    with RunLock(out) as lock:
        lock.acquire()
        store_selections(out, selections, runs)
        store_sweep(planned, out)
        ended = []
        for number, item in enumerate(run_all(runs, caches=caches, jobs=jobs), start=1):
            ended.append(item)
            title = f"{item.run.row.name}, seed {item.run.seed}"
            problem = f": {item.problem}" if item.problem else ""
            with tqdm.external_write_mode():
                print(f"[{number}/{len(runs)}] {title}: {item.status}{problem}", flush=True)
        ended.sort(key=lambda item: runs.index(item.run))  # the order of the table, whichever ended first
        compared = sweep_table.write(
            out, title=planned.title, rows=planned.rows, baseline=planned.baseline, ended=ended
        )
    print(compared)
    print(f"for one page with pictures: codistill eval report {out} --out REPORT")
    statuses = {item.status for item in ended}
    return INTERRUPTED if STOPPED in statuses else 1 if FAILED in statuses else 0


def export(
    run: Annotated[Path, tyro.conf.Positional, A_RUN, tyro.conf.arg(metavar="RUN")],
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    format: Literal["timm", "dune"] = "timm",
    step: Annotated[int | None, AtLeast(0)] = None,
    image_size: Annotated[int | None, AtLeast(1)] = None,
    onnx: Flag = False,
    licences: Annotated[str, COMMAS, tyro.conf.arg(metavar="NAME=LICENCE,...")] = "",
    hub_datasets: Annotated[str, COMMAS, tyro.conf.arg(metavar="NAME=OWNER/DATASET,...")] = "",
) -> None:
    """Export a trained student for other programs. example: codistill train export runs/a --out students/a

    Args:
        run: directory of the run.
        out: new directory (timm: encoder as safetensors, JSON, model card, hubconf.py) or new file (dune: .pth with
            projectors).
        format: timm is read by timm as local-dir:PATH, by torch.hub and by the Hugging Face hub; dune is read by the
            loader of naver/dune.
        step: step of the checkpoint to export; None takes the newest.
        image_size: side in px of the images that timm's model takes; None takes the size of the training.
        onnx: write model.onnx too, once its output has been compared with PyTorch's.
        licences: licences of datasets, and of teachers that the card does not know, such as faces=CC-BY-4.0.
        hub_datasets: training datasets that are on the Hugging Face hub, for the card.
    """
    if format == "timm" and out.suffix.lower() in WEIGHT_SUFFIXES:
        raise InvalidInput(
            f"--out '{out}' is the name of a file, and timm's format is a directory. Give --out {out.with_suffix('')}, "
            "or --format dune for one .pth file"
        )
    if format == "dune" and (onnx or licences or hub_datasets or image_size):
        options = "--onnx, --licences, --hub-datasets and --image-size"
        raise InvalidInput(f"{options} go with --format timm. Leave them out, or export twice")
    from train.export.given import parse_hub_datasets, parse_licences
    from train.export.run import export_run
    from train.run.load import load

    given, on_hub = parse_licences(names_of(licences) or []), parse_hub_datasets(names_of(hub_datasets) or [])
    export_run(
        load(run, step=step),
        out,
        kind=format,
        image_size=image_size,
        onnx=onnx,
        given_licences=given,
        hub_datasets=on_hub,
    )
    use = f'timm.create_model("local-dir:{out}", pretrained=True)' if format == "timm" else "naver/dune's loader"
    print(f"exported to '{out}'. Use: {use}")


if __name__ == "__main__":
    sys.exit(main())
