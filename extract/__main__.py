"""`codistill extract ...`: run teachers over datasets, once, into a cache."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from store.common import cli

if TYPE_CHECKING:
    from rich.console import Console

    from extract.catalogue import Catalogue
    from extract.job.executor import Executor
    from extract.job.worker import Settings

TABLE_WIDTH = 110
CataloguePath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CATALOGUE.toml")]
Names = Annotated[str, tyro.conf.arg(metavar="A,B")]


def run(
    catalogue: CataloguePath,
    *,
    cache: str,
    datasets: Names = "",
    teachers: Names = "",
    stages: Names = "index,views,features,seal",
    device: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    workers: int = 0,
    max_failed: str = "1%",
    shards: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1",
    summary: Path | None = None,
    events: Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> int:
    """Extract what is left of a catalogue into a cache; stop it at any time and run it again.

    example: codistill extract run extract/catalogues/dune.toml --cache /data/cache --teachers dinov2

    Args:
        catalogue: what is extracted.
        cache: folder or URL; made if it is new.
        datasets: names in the catalogue; all if not given.
        teachers: names in the catalogue; all if not given.
        stages: which of index, views, features, seal to run.
        device: auto, cpu, cuda, cuda:N.
        batch_size: rows that go through a teacher together; found out if not given.
        threads: of each process, that decode images; one a processor if not given.
        scheduler: address of a Dask scheduler whose workers do the work, or the .json file that it wrote.
        workers: local processes that do the work; 0 works in threads of this one.
        max_failed: share of rows that may fail before the job stops.
        shards: only every N-th shard from the I-th on, I from 0, for job arrays; `store seal` afterwards.
        summary: file for the figures of the job, as JSON.
        events: file that gets a line of JSON for each thing that happens.
        dry_run: only tell what is left to do; writes nothing.
        overwrite: delete the datasets named by --datasets (without index and views: only their tokens) and begin anew.
    """
    from extract.catalogue import load_catalogue
    from extract.job import job
    from extract.job.failure_limit import FailureLimit
    from extract.job.summary import sentences_of, table_of, write_summary
    from extract.job.tasks import Part
    from extract.job.worker import Settings
    from extract.plan.plan import narrowed

    asked = job.Job(
        catalogue=load_catalogue(catalogue),
        cache=cache if "://" in cache else os.path.abspath(cache),
        datasets=_names(datasets),
        teachers=_names(teachers),
        stages=_names(stages),
        limit=FailureLimit.parse(max_failed),
        part=Part.parse(shards),
        events=events,
    )
    selection = job.check(asked)
    if dry_run:
        _show_plan(narrowed(asked.catalogue, datasets=selection.datasets, teachers=selection.teachers), asked.cache)
        print("dry run: nothing was written")
        return 0
    settings = Settings(
        location=asked.cache, catalogue=asked.catalogue, device=device, batch_size=batch_size, threads=threads
    )
    if overwrite:
        for name in job.delete(selection, job.open_root(selection)):
            print(f"deleted '{name}'", file=sys.stderr)
    opened = job.open_for(selection)
    with _terminated_like_interrupted(), _crew(settings, scheduler, workers) as crew:
        report = job.run(selection, opened, crew, stream=sys.stderr)
    if summary is not None:
        write_summary(summary, report)
    _console().print(table_of(report))
    for sentence in sentences_of(report):
        print(sentence)
    if report.problem is not None:
        print(f"error: {report.problem}", file=sys.stderr)
    return 0 if report.complete else 1


def plan(
    catalogue: CataloguePath,
    *,
    cache: str | None = None,
    datasets: Names = "",
    teachers: Names = "",
    split: Literal["train", "val"] | None = None,
    image_size: Annotated[str, tyro.conf.arg(metavar="PX,...")] = "",
    views: Annotated[str, tyro.conf.arg(metavar="N,...")] = "",
    rows_per_second: Annotated[str, tyro.conf.arg(metavar="NAME=RATE,...")] = "",
    calibrate: bool = True,
    count_files: bool = True,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Tell what a catalogue costs: rows, shards, bytes, hours, free space, what exists. Writes nothing.

    example: codistill extract plan extract/catalogues/dune.toml --rows-per-second views=900,250

    Args:
        catalogue: what would be extracted.
        cache: the target: for its free space, and for what is there already.
        datasets: names in the catalogue; all if not given.
        teachers: names in the catalogue; all if not given.
        split: only datasets of this split.
        image_size: instead of the catalogue's; several are compared in one table ('catalogue' stands for its own).
        views: of every training dataset, instead of the catalogue's; several are compared.
        rows_per_second: instead of measuring, such as views=900,dinov2=250; a bare number counts for all teachers.
        calibrate: measure for some seconds, where images and weights are here.
        count_files: list the images; otherwise expected numbers count.
        device: for measuring.
        threads: for measuring.
    """
    from backbones.device import resolve_device
    from extract.catalogue import load_catalogue
    from extract.plan.calibrate import calibrate as measure
    from extract.plan.plan import narrowed, parse_rates
    from extract.plan.tables import parse_choices

    whole = load_catalogue(catalogue)
    chosen = narrowed(whole, datasets=_names(datasets), teachers=_names(teachers), split=split)
    choices = [
        narrowed(chosen, image_size=choice.image_size, views=choice.views)
        for choice in parse_choices(image_size, views)
    ]
    if len(choices) > 1:
        _show_choices(choices, count_files=count_files)
        return
    asked = choices[0]
    rates = parse_rates(rows_per_second, [teacher.name for teacher in asked.teacher])
    if calibrate and not rates:
        rates = measure(
            asked,
            device=resolve_device(device),
            threads=threads or len(os.sched_getaffinity(0)),
            say=lambda sentence: print(sentence, file=sys.stderr),
        )
    _show_plan(asked, cache, rates=rates, count_files=count_files)


def main(argv: list[str] | None = None) -> int:
    """Run the program; see `store.commandline.run` for exit codes."""
    from extract.teachers.listing import teachers_command

    return cli.run(
        "codistill extract",
        "Run teachers over datasets, once, into a cache.",
        {"run": run, "plan": plan, "teachers": teachers_command},
        argv=argv,
    )


def _show_plan(
    catalogue: "Catalogue", cache: str | None, *, rates: Mapping[str, float] | None = None, count_files: bool = True
) -> None:
    from extract.plan import tables
    from extract.plan.plan import count_images, make_plan, open_if_there

    existing = open_if_there(cache, catalogue.recipe)
    counts = count_images(catalogue, cache=existing, count_files=count_files)
    made = make_plan(catalogue, counts=counts, cache=existing, target=cache, rates=rates)
    shown = tables.dataset_table(made), tables.cost_table(made), tables.array_table(made)
    _console().print(*shown, sep="\n")
    for sentence in tables.sentences(made):
        print(sentence)


def _show_choices(catalogues: Sequence["Catalogue"], *, count_files: bool) -> None:
    from extract.plan import tables
    from extract.plan.plan import count_images, make_plan

    counts = count_images(catalogues[0], cache=None, count_files=count_files)
    plans = [make_plan(catalogue, counts=counts) for catalogue in catalogues]
    _console().print(tables.choice_table(plans))
    for sentence in tables.choice_sentences(plans):
        print(sentence)


def _crew(settings: "Settings", scheduler: str | None, workers: int) -> "AbstractContextManager[Executor]":
    """Who does the work: threads of this process, local processes, or the workers of a scheduler."""
    if scheduler is None and workers <= 0:
        from backbones.device import resolve_device
        from extract.job.executor import ThreadExecutor

        return ThreadExecutor(replace(settings, device=resolve_device(settings.device)))
    from extract.job.dask_executor import DaskExecutor

    if scheduler is None and settings.threads is None:
        settings = replace(settings, threads=max(1, settings.processors // workers))
    return DaskExecutor(settings, scheduler=scheduler, workers=workers)


def _console() -> "Console":
    """Wide enough for the tables also where output goes to a file."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    return console


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send first, ends a job as Ctrl-C does: shards under way are given up in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
