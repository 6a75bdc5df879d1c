"""Running of a sweep: each run in a process of its own, several at once if asked; a bar says how long all will take."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from store.common import atomic
from store.errors import CodistillError
from train.recipe.config import Recipe, overridden
from train.run import checkpoints, directory
from train.run.interrupt import StopRequest
from train.run.log import LOG_FILE_INTERVAL_S
from train.run.output import CHECKPOINTS
from train.sweep import FAILED, FINISHED, STOPPED, EndedRun, PlannedRun, problem_file

STOP_CHECK_S = 0.2


@dataclass(kw_only=True)
class _Job:
    """A run whose process is alive.

    Attributes:
        run: the run.
        slot: number of the job among those that run at once.
        process: process of the run.
        messages: messages of the process: ("step", record) and ("show", line); it ends with the process.
        step: steps done.
    """

    run: PlannedRun
    slot: int
    process: Any
    messages: Connection
    step: int
    bar: Any = field(default=None)

    @property
    def title(self) -> str:
        return f"{self.run.row.name}, seed {self.run.seed}"


def run_all(runs: Sequence[PlannedRun], *, caches: Sequence[str], jobs: int = 1) -> Iterator[EndedRun]:
    """Train the unfinished runs, each in a process of its own.

    A run that fails is reported and the next one begins. Ctrl-C and SIGTERM let the runs in progress write a
    checkpoint; the remaining ones are reported as stopped.

    Args:
        runs: runs from `train.sweep.plan`.
        caches: locations of the caches.
        jobs: number of runs at once.

    Yields:
        each run once it has ended: first those that were finished before.
    """
    waiting: deque[PlannedRun] = deque()
    for run in runs:
        if directory.is_finished(run.directory):
            problem_file(run.directory).unlink(missing_ok=True)  # of an attempt before it finished
            yield EndedRun(run=run, status=FINISHED)
        else:
            waiting.append(run)
    if not waiting:
        return
    running: dict[Connection, _Job] = {}
    with StopRequest() as stop, _Bars(list(waiting), runs=len(runs)) as bars:
        signalled = False
        while waiting or running:
            if stop.requested:
                while waiting:
                    yield EndedRun(run=waiting.popleft(), status=STOPPED)
                if not signalled:
                    _stop(running.values())
                    signalled = True
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {job.slot for job in running.values()})
                job = _start(waiting.popleft(), caches, slot=slot, jobs=jobs)
                running[job.messages] = job
                bars.begin(job)
            for messages in wait(list(running), timeout=STOP_CHECK_S):
                job = running[messages]  # type: ignore[index]
                try:
                    bars.tell(job, *job.messages.recv())
                except (EOFError, OSError):  # the process has ended
                    del running[job.messages]
                    ended = _end(job, stopped=stop.requested)
                    bars.end(job, ended)
                    yield ended


def _start(run: PlannedRun, caches: Sequence[str], *, slot: int, jobs: int) -> _Job:
    problem = problem_file(run.directory)
    problem.parent.mkdir(parents=True, exist_ok=True)
    problem.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.loop"])  # imports torch once, not in every run
    messages, theirs = context.Pipe(duplex=False)
    recipe = _shared_machine(run.recipe, slot=slot, jobs=jobs).model_dump(mode="json")
    process = context.Process(
        target=_train_in_child, args=(recipe, list(caches), str(run.directory), str(problem), theirs)
    )
    process.start()
    theirs.close()
    step = (checkpoints.saved(run.directory / CHECKPOINTS) or [0])[-1]
    return _Job(run=run, slot=slot, process=process, messages=messages, step=step)


def _shared_machine(recipe: Recipe, *, slot: int, jobs: int) -> Recipe:
    """Return the recipe with this job's share of the machine: GPUs in turn, or its part of the CPU's cores."""
    if jobs == 1:
        return recipe
    import torch

    gpus = torch.cuda.device_count()
    values: dict[str, Any] = {}
    if recipe.machine.device in ("auto", "cuda") and gpus > 1:
        values["machine.device"] = f"cuda:{slot % gpus}"
    if not recipe.machine.threads and (recipe.machine.device == "cpu" or not gpus):
        values["machine.threads"] = max(1, len(os.sched_getaffinity(0)) // jobs)
    return overridden(recipe, values, subject="sweep") if values else recipe


def _stop(jobs: Any) -> None:
    for job in jobs:
        if job.process.is_alive() and job.process.pid is not None:
            os.kill(job.process.pid, signal.SIGTERM)


def _end(job: _Job, *, stopped: bool) -> EndedRun:
    job.process.join()
    job.messages.close()
    problem = problem_file(job.run.directory)
    if job.process.exitcode == 0:
        return EndedRun(run=job.run, status=FINISHED)
    if problem.exists():
        last = problem.read_text(encoding="utf-8").strip().splitlines()[-1]
        return EndedRun(run=job.run, status=FAILED, problem=last)
    if stopped:
        return EndedRun(run=job.run, status=STOPPED)
    return EndedRun(run=job.run, status=FAILED, problem=f"the process ended with exit code {job.process.exitcode}")


def _train_in_child(
    recipe: Mapping[str, Any], caches: list[str], run: str, problem: str, messages: "Connection"
) -> None:
    """Train one run, as the child process."""
    os.setpgrp()  # leaves the terminal's group, so that Ctrl-C reaches it through the parent alone
    from train.loop import train
    from train.sweep_check import stored_selection

    def tell(kind: str, content: Any) -> None:
        try:
            messages.send((kind, content))
        except OSError:  # the parent is gone: a run goes on without it
            return

    try:
        own = Recipe.model_validate(recipe)
        selection = stored_selection(Path(run).parent, own)
        outcome = train(own, caches=caches, out=Path(run), resume=True, selection=selection, listener=tell)
    except CodistillError as error:
        atomic.write_text(Path(problem), f"{error}\n")
        raise SystemExit(1) from None
    except Exception:
        atomic.write_text(Path(problem), traceback.format_exc())
        raise SystemExit(1) from None
    raise SystemExit(0 if outcome.finished else 130)


class _Bars:
    """A bar over the steps of all runs, with the time that is left, and on a terminal one for each run in progress."""

    def __init__(self, waiting: Sequence[PlannedRun], *, runs: int) -> None:
        done = [(checkpoints.saved(run.directory / CHECKPOINTS) or [0])[-1] for run in waiting]
        self._ended, self._runs = runs - len(waiting), runs
        self._interval = 0.1 if sys.stderr.isatty() else LOG_FILE_INTERVAL_S
        self._latest: dict[str, str] = {}  # title of a run in progress -> its step and loss
        self._steps = sum(run.recipe.steps for run in waiting)
        self._total = tqdm(
            total=self._steps,
            initial=sum(done),
            unit="step",
            desc=self._description(),
            dynamic_ncols=True,
            mininterval=self._interval,
        )

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._total.close()

    def begin(self, job: _Job) -> None:
        job.bar = tqdm(
            total=job.run.recipe.steps,
            initial=job.step,
            unit="step",
            desc=job.title,
            position=job.slot + 1,
            leave=False,
            disable=None,  # shown on a terminal alone
            dynamic_ncols=True,
        )

    def tell(self, job: _Job, kind: str, content: Any) -> None:
        """Show what a run tells: a step or a line."""
        if kind == "show":
            line = content.removeprefix(f"{job.run.directory.name}: ")
            self._total.write(f"{job.title}: {line}", file=self._total.fp)
            return
        job.step = content["step"]
        loss = f"loss {content['loss']:.4f}"
        job.bar.set_postfix_str(loss, refresh=False)
        job.bar.update(1)
        self._latest[job.title] = f"{job.title}: {job.step}/{job.run.recipe.steps}, {loss}"
        self._total.set_postfix_str("; ".join(self._latest.values()) if job.bar.disable else "", refresh=False)
        self._total.update(1)

    def end(self, job: _Job, ended: EndedRun) -> None:
        job.bar.close()
        self._latest.pop(job.title, None)
        self._ended += 1
        if ended.status != FINISHED:
            self._steps -= job.run.recipe.steps - job.step  # nobody waits for these
            self._total.total = self._steps
        self._total.set_description(self._description(), refresh=True)

    def _description(self) -> str:
        return f"sweep, {self._ended} of {self._runs} runs"
