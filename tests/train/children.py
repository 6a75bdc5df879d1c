"""Trainings in processes of their own, which tests kill or signal."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from codistill.__main__ import main
from tests import children
from tests.children import nothing
from tests.train.stories import stop_after
from train.loop import train
from train.recipe.named import find
from train.run.log import RunLogger


@dataclass(frozen=True, kw_only=True)
class KillAtStep:
    """Kills this process ahead of logging the `number`-th step that it makes."""

    number: int

    def __call__(self) -> None:
        at_step(self.number, lambda: os.kill(os.getpid(), signal.SIGKILL))


@dataclass(frozen=True, kw_only=True)
class HoldAtStep:
    """Tells `arrived` when the `number`-th step is to be logged, and goes on when a signal has come."""

    number: int
    arrived: Connection

    def __call__(self) -> None:
        signalled, at_signal = os.pipe()
        os.set_blocking(at_signal, False)
        signal.set_wakeup_fd(at_signal)  # written to by the signal itself, so that none is missed

        def hold() -> None:
            self.arrived.send(None)
            os.read(signalled, 1)

        at_step(self.number, hold)


def at_step(number: int, act: Callable[[], None]) -> None:
    """Have `act` called once, ahead of logging the `number`-th step."""
    step, steps = RunLogger.step, []

    def counting(*arguments: Any, **options: Any) -> None:
        steps.append(None)
        if len(steps) == number:
            act()
        step(*arguments, **options)

    RunLogger.step = counting  # type: ignore[method-assign]


def start_command(*arguments: str, output: Path, prepare: Callable[[], None] = nothing) -> ForkServerProcess:
    """Begin `codistill train ...`; `prepare` is called in the child before it begins."""
    return children.start(partial(_command, ["train", *arguments], prepare), output=output)


def start_rank(rank: int, *, meeting: Path, runs: Sequence[tuple[str, Path, int]], cache: str) -> ForkServerProcess:
    """Begin one of two ranks, which train or resume several recipes, as under torchrun.

    Args:
        rank: number of the rank; only rank 0 is asked to stop.
        meeting: file by which the ranks find each other; absent. The output goes beside it.
        runs: file of a recipe, run directory, and the step to stop after (0 for its end).
        cache: location of the cache.
    """
    return children.start(partial(_rank, rank, meeting, runs, cache), output=meeting.with_suffix(f".{rank}.txt"))


def _command(arguments: list[str], prepare: Callable[[], None]) -> int:
    prepare()
    return main(arguments)


def _rank(rank: int, meeting: Path, runs: Sequence[tuple[str, Path, int]], cache: str) -> None:
    os.environ.update({"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)})
    distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=2)
    for recipe, out, stop in runs:
        with pytest.MonkeyPatch.context() as patched:
            if rank == 0:
                stop_after(patched, stop)
            train(find(recipe), caches=[cache], out=out, resume=True, quiet=True)
    distributed.destroy_process_group()
