"""`codistill extract ...`: run teachers over datasets once and store their features in a cache."""

from store.common.interrupts import end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported


import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from store import errors
from store.common import cli
from store.common.arguments import COMMAS, names_of
from store.common.blas import one_thread_each
from store.common.constraints import AtLeast, Device, NotNegative, OutputFile

if TYPE_CHECKING:
    from rich.console import Console

    from extract.job.executor import Executor
    from extract.job.selection import Selection
    from extract.job.summary import RunReport
    from extract.job.worker import Settings

TABLE_WIDTH = 124
PAPERS_BUDGET = 128_116_700  # images that the paper's students are trained on
CataloguePath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CATALOGUE.toml")]
Names = Annotated[str, COMMAS, tyro.conf.arg(metavar="A,B", help_behavior_hint="(default: all in the catalogue)")]
Threads = Annotated[int | None, AtLeast(1), tyro.conf.arg(metavar="N", help_behavior_hint="(default: one per CPU)")]


def run(
    catalogue: CataloguePath,
    *,
    cache: str,
    datasets: Names = "",
    teachers: Names = "",
    stages: Annotated[str, COMMAS, tyro.conf.arg(metavar="A,B")] = "index,views,calibrate,features,seal",
    device: Device = "auto",
    batch_size: Annotated[
        int | None, AtLeast(1), tyro.conf.arg(metavar="N", help_behavior_hint="(default: found by trying)")
    ] = None,
    threads: Threads = None,
    scheduler: str | None = None,
    workers: NotNegative = 0,
    max_failed: str = "1%",
    shards: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1",
    summary: Annotated[Path | None, OutputFile()] = None,
    events: Annotated[Path | None, OutputFile()] = None,
    dry_run: bool = False,
    append: bool = False,
    overwrite: bool = False,
) -> int:
    """Run what is left of a catalogue's extraction into a cache. Stop it at any time, and run it again to go on.

    Several jobs may run on one cache: each shard is published once.

    example: codistill extract run extract/catalogues/dune.toml --cache /data/cache --teachers dinov2

    Args:
        catalogue: TOML file that lists datasets and teachers.
        cache: folder or URL of the cache; created if it does not exist.
        datasets: dataset names, with commas.
        teachers: teacher names, with commas.
        stages: stages to run: index lists images, views stores pixels, calibrate fits the codes of teachers that have a
            ratio, features runs teachers, seal finishes the cache.
        device: device of the teachers: auto, cpu, cuda or cuda:N.
        batch_size: rows that go through a teacher together.
        threads: threads of each process that decode images, and on a CPU run teachers.
        scheduler: address of a Dask scheduler whose workers make the shards, or the .json file that it wrote.
        workers: number of local processes that make the shards; 0 uses threads of this process.
        max_failed: share of failed rows at which the job stops.
        shards: make only every N-th shard, from number I (0 to N-1) on, for job arrays; run `store seal` afterwards.
        summary: JSON file for the figures of the job.
        events: file to which one line of JSON is added for each event, such as a finished shard.
        dry_run: only print what is left to do; writes nothing.
        append: take in images that were added to the datasets' folders since they were indexed, as a further part of
            each; nothing stored is changed.
        overwrite: delete the datasets in --datasets (without stages index and views: only their tokens) and start over.
    """
    from extract.catalogue import load_catalogue
    from extract.job.failure_limit import FailureLimit
    from extract.job.selection import Job, check, require_datasets
    from extract.job.tasks import Part

    asked = Job(
        catalogue=load_catalogue(catalogue),
        cache=cache if "://" in cache else os.path.abspath(cache),
        datasets=_names(datasets),
        teachers=_names(teachers),
        stages=_names(stages),
        limit=FailureLimit.parse(max_failed),
        part=Part.parse(shards),
        events=events,
        append=append,
    )
    if overwrite:
        require_datasets(asked)
    selection = check(asked, overwrite=overwrite)

    from backbones.device import check_device  # this and what is below imports torch
    from extract.job import job, teacher_check
    from extract.job.worker import Settings

    if scheduler is None:
        check_device(device)
    teacher_check.check(selection, overwrite=overwrite)
    if dry_run:
        return _show_what_is_left(selection)
    settings = Settings(
        location=asked.cache, catalogue=asked.catalogue, device=device, batch_size=batch_size, threads=threads
    )
    with _sigterm_as_interrupt(), _executor(settings, scheduler, workers) as executor:
        for name in job.delete(selection) if overwrite else ():
            print(f"deleted '{name}'", file=sys.stderr)
        report = job.run(selection, job.open_for(selection), executor, stream=sys.stderr)
    return _show_report(report, summary)


def calibrate(
    catalogue: CataloguePath,
    *,
    cache: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(required without --dry-run)")] = None,
    datasets: Names = "",
    teachers: Names = "",
    device: Device = "auto",
    threads: Threads = None,
    dry_run: bool = False,
    rows: Annotated[int, AtLeast(4), tyro.conf.arg(metavar="N")] = 1000,
    json: bool = False,
) -> int:
    """Fit the codes of the teachers that have a ratio to a sample of a cache's pixels, once: later ones are compared.

    With --dry-run, try codes of 4, 8, 16 and 32x on images of the catalogue's sources, before anything is extracted.

    example: codistill extract calibrate extract/catalogues/dune.toml --dry-run

    Args:
        catalogue: TOML file that lists datasets and teachers.
        cache: folder or URL of a cache with pixels.
        datasets: dataset names, with commas; training datasets are sampled.
        teachers: teacher names, with commas.
        device: device of the teachers: auto, cpu, cuda or cuda:N.
        threads: threads that render views, and on a CPU run teachers.
        dry_run: print spectrum, noise and slope of several ratios; writes nothing and needs no cache.
        rows: rows that a dry run computes for each teacher, one an image where there are as many.
        json: print the figures of a dry run as JSON for other programs.
    """
    if dry_run:
        from extract.catalogue import load_catalogue, narrowed
        from extract.plan.show_codes import show_codes

        chosen = narrowed(load_catalogue(catalogue), datasets=_names(datasets), teachers=_names(teachers))
        show_codes(_console(), chosen, device=device, threads=threads, rows=rows, json=json)
        return 0
    if cache is None:
        raise errors.InvalidInput("--cache: name the cache whose pixels are sampled, or pass --dry-run")
    return run(
        catalogue,
        cache=cache,
        datasets=datasets,
        teachers=teachers,
        stages="calibrate",
        device=device,
        threads=threads,
    )


def _show_what_is_left(selection: "Selection") -> int:
    """Print what a job would do, without doing it; return the exit code."""
    from extract.catalogue import narrowed
    from extract.job.index import would_append
    from extract.job.selection import existing_cache
    from extract.plan.show import show_plan
    from extract.sources import open_source

    job = selection.job
    show_plan(_console(), narrowed(job.catalogue, datasets=selection.datasets, teachers=selection.teachers), job.cache)
    cache = existing_cache(job.cache)
    for entry in selection.dataset_entries if job.append else ():
        print(would_append(cache, entry, open_source(entry)))
    print("dry run: nothing was written")
    return 0


def _show_report(report: "RunReport", summary: Path | None) -> int:
    """Show what a job did and write its figures; return the exit code."""
    from extract.job.summary import sentences_of, table_of, write_summary

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
    split: Annotated[Literal["train", "val"] | None, tyro.conf.arg(help_behavior_hint="(default: both)")] = None,
    image_size: Annotated[str, COMMAS, tyro.conf.arg(metavar="PX,...", help_behavior_hint="(default: catalogue)")] = "",
    views: Annotated[str, COMMAS, tyro.conf.arg(metavar="N,...", help_behavior_hint="(default: catalogue)")] = "",
    rows_per_second: Annotated[
        str, tyro.conf.arg(metavar="NAME=RATE,...", help_behavior_hint="(default: measured)")
    ] = "",
    calibrate: bool = True,
    count_files: bool = True,
    budget: Annotated[int, AtLeast(1), tyro.conf.arg(metavar="IMAGES")] = PAPERS_BUDGET,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Print what a catalogue's extraction costs: rows, shards, bytes, hours, free space, what exists. Writes nothing.

    It also compares float16 tokens with codes and raw pixels with JPEG, and proposes views and ratios.

    example: codistill extract plan extract/catalogues/dune.toml --rows-per-second views=900,250

    Args:
        catalogue: TOML file that lists datasets and teachers.
        cache: folder or URL of the cache, existing or not; adds its free space and subtracts what it holds already.
        datasets: dataset names, with commas.
        teachers: teacher names, with commas.
        split: plan only datasets of this split.
        image_size: side of the views in px; several values are compared in one table, 'catalogue' is its own value.
        views: views of every training dataset; several values are compared in one table, 'catalogue' is its own value.
        rows_per_second: rates to use, such as views=900,dinov2=250; a bare number applies to all teachers.
        calibrate: measure rates for some seconds if none are given, where images and weights are on this machine.
        count_files: count images by listing them; otherwise the catalogue's expected numbers are used.
        budget: images of a training, equally from all groups, for which it counts how often a row is seen.
        device: device for measuring: auto, cpu, cuda or cuda:N.
        threads: threads for measuring.
    """
    from extract.catalogue import load_catalogue, narrowed
    from extract.plan.plan import parse_rates, refuse_misfit
    from extract.plan.show import show_choices, show_plan
    from extract.plan.tables import parse_choices

    whole = load_catalogue(catalogue)
    chosen = narrowed(whole, datasets=_names(datasets), teachers=_names(teachers), split=split)
    choices = [
        narrowed(chosen, image_size=choice.image_size, views=choice.views)
        for choice in parse_choices(image_size, views)
    ]
    if len(choices) > 1:
        show_choices(_console(), choices, count_files=count_files, samples=budget)
        return
    asked = choices[0]
    rates = parse_rates(rows_per_second, [teacher.name for teacher in asked.teacher])
    refuse_misfit(asked, cache)
    if calibrate and not rates:
        from backbones.device import resolve_device
        from extract.plan.measure_rates import measure_rates

        rates = measure_rates(
            asked,
            device=resolve_device(device),
            threads=threads or len(os.sched_getaffinity(0)),
            say=lambda sentence: print(sentence, file=sys.stderr),
        )
    show_plan(_console(), asked, cache, rates=rates, count_files=count_files, samples=budget)


def main(argv: list[str] | None = None) -> int:
    """Run the program; see `store.common.cli.run` for exit codes."""
    one_thread_each()
    from extract.teachers.listing import teachers_command

    return cli.run(
        "codistill extract",
        "Run teachers over datasets once and store their features in a cache.",
        {"run": run, "plan": plan, "calibrate": calibrate, "teachers": teachers_command},
        argv=argv,
    )


def _executor(settings: "Settings", scheduler: str | None, workers: int) -> "AbstractContextManager[Executor]":
    """Choose the executor: threads of this process, local processes, or the workers of a scheduler."""
    if scheduler is None and workers <= 0:
        from backbones.device import resolve_device
        from extract.job.executor import ThreadExecutor

        return ThreadExecutor(replace(settings, device=resolve_device(settings.device)))
    from extract.job.dask_executor import DaskExecutor

    if scheduler is None and settings.threads is None:
        settings = replace(settings, threads=max(1, settings.processors // workers))
    return DaskExecutor(settings, scheduler=scheduler, workers=workers)


def _console() -> "Console":
    """Console that is wide enough for the tables, also where the output goes to a file."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    return console


def _names(text: str) -> tuple[str, ...]:
    return tuple(names_of(text) or ())


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which schedulers send first, end a job as Ctrl-C does: unfinished shards are discarded."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
