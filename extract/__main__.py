"""`codistill extract ...`: run teachers over datasets, once, into a cache."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from store import commandline

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
    max_failed: str = "1%",
    shards: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1",
    summary: Path | None = None,
    events: Path | None = None,
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
        threads: that decode images; one a processor if not given.
        max_failed: share of rows that may fail before the job stops.
        shards: only every N-th shard from the I-th on, I from 0, for job arrays; `store seal` afterwards.
        summary: file for the figures of the job, as JSON.
        events: file that gets a line of JSON for each thing that happens.
    """
    from rich.console import Console

    from extract import engine
    from extract.catalogue import load_catalogue
    from extract.crew import LocalCrew
    from extract.summary import sentences_of, table_of, write_summary
    from extract.tasks import Part
    from extract.watch import FailureLimit
    from extract.workshop import Settings, resolve_device

    job = engine.Job(
        catalogue=load_catalogue(catalogue),
        cache=cache,
        datasets=_names(datasets),
        teachers=_names(teachers),
        stages=_names(stages),
        limit=FailureLimit.parse(max_failed),
        part=Part.parse(shards),
        events=events,
    )
    settings = Settings(
        location=cache,
        catalogue=job.catalogue,
        device=resolve_device(device),
        batch_size=batch_size,
        threads=threads or len(os.sched_getaffinity(0)),
    )
    checked = engine.check(job)
    with _terminated_like_interrupted(), LocalCrew(settings) as crew:
        report = engine.run(checked, crew, stream=sys.stderr)
    if summary is not None:
        write_summary(summary, report)
    Console().print(table_of(report))
    for sentence in sentences_of(report):
        print(sentence)
    if report.problem is not None:
        print(f"error: {report.problem}", file=sys.stderr)
    return 0 if report.complete else 1


def main(argv: list[str] | None = None) -> int:
    """Run the program; see `store.commandline.run` for exit codes."""
    from extract.teachers.listing import teachers_command

    return commandline.run(
        "codistill extract",
        "Run teachers over datasets, once, into a cache.",
        {"run": run, "teachers": teachers_command},
        argv=argv,
    )


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
