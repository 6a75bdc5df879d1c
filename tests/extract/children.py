"""Extraction in processes of their own, which tests may kill."""

import json
import os
import resource
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

from extract.job.failure_limit import JobWatch
from tests import children
from tests.children import nothing
from tests.extract.builders import run_extract
from tests.points import Call, Point, observe


@dataclass(frozen=True, kw_only=True)
class FileLimit:
    """Limits the size of the files that a child writes; stands in for a full disk."""

    size_bytes: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size_bytes, self.size_bytes))


@dataclass(frozen=True, kw_only=True)
class HoldUntilStopped:
    """Tells `arrived` that a call is reached, and holds its thread there until the job is stopped."""

    point: Point
    arrived: Connection

    def __call__(self) -> None:
        stop, stopped = JobWatch.stop, threading.Event()

        def stop_and_release(watch: JobWatch) -> None:
            stop(watch)
            stopped.set()

        def hold(call: Call) -> None:
            self.arrived.send(call.path)
            stopped.wait()

        JobWatch.stop = stop_and_release  # type: ignore[method-assign]
        self.point.when_reached(hold)


@dataclass(frozen=True, kw_only=True)
class Meet:
    """Holds a job that is about to publish a shard until the other job is about to publish the same.

    Args:
        folder: cache.
        barriers: path of a shard in `folder` -> barrier of two processes.
    """

    folder: Path
    barriers: Mapping[str, Barrier]

    def __call__(self) -> None:
        def meet(call: Call) -> None:
            shard = os.path.relpath(call.path, self.folder)
            if call.name == "link" and shard in self.barriers:
                self.barriers[shard].wait()

        observe(self.folder, meet)


def extract(arguments: list[str], prepare: Callable[[], None]) -> int:
    """Run `codistill extract run`; the exit code."""
    prepare()
    return run_extract(*arguments)


def start(folder: Path, cache: str, *options: str, prepare: Callable[[], None] = nothing) -> ForkServerProcess:
    """Begin to extract `folder`/catalogue.toml; output and events go to `<cache>.txt` and `<cache>.jsonl`.

    `prepare` is called in the child before it begins.
    """
    arguments = [str(folder / "catalogue.toml"), "--cache", str(folder / cache), "--batch-size", "3", "--threads", "1"]
    arguments += ["--events", str(folder / f"{cache}.jsonl"), *options]
    return children.start(partial(extract, arguments, prepare), output=folder / f"{cache}.txt")


def finish(folder: Path, cache: str, *options: str, prepare: Callable[[], None] = nothing) -> int | None:
    """Extract until the child ends; the exit code."""
    child = start(folder, cache, *options, prepare=prepare)
    child.join()
    return child.exitcode


def made(events: Path, *, published: bool | None = None) -> Counter[tuple[str, str, int]]:
    """Count how often each shard was finished, by the event log; only first or only later ones with `published`."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    shards = [line for line in lines if line["event"] == "shard" and published in (None, line["published"])]
    return Counter((shard["dataset"], shard["array"], shard["shard"]) for shard in shards)
