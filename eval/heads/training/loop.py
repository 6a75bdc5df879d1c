"""The story of a training of a task head: run directory, starting point, steps, log and checkpoints, the weights."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from eval.heads.recipes.base import HeadRecipe
from eval.heads.training import run_directory
from train.distributed import Ranks
from train.run import checkpoints, log
from train.run.checkpoints import Checkpoint
from train.run.interrupt import StopRequest
from train.run.lock import RunLock
from train.run.output import CHECKPOINTS

Batch = TypeVar("Batch")
TakenBatch = TypeVar("TakenBatch", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """End of a training: steps done, of how many; `first` on the rank that reports."""

    step: int
    steps: int
    first: bool = True

    @property
    def finished(self) -> bool:
        """True if all steps are done."""
        return self.step >= self.steps


class Stepper(Protocol[TakenBatch]):
    """A head with its optimizer."""

    def step(self, batch: TakenBatch, step: int) -> dict[str, Any]:
        """Take step number `step`, from 0; return numbers for the log, among them `loss`.

        Raises:
            Diverged: something was not finite; no weight was changed.
        """
        ...

    def checkpoint(self, step: int) -> Checkpoint:
        """Return everything that the next step depends on besides recipe and data."""
        ...

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; raises InvalidInput if it is of another head."""
        ...


@dataclass(frozen=True, kw_only=True)
class Training(Generic[Batch]):
    """A training that is ready to begin.

    Attributes:
        recipe: its recipe.
        description: JSON of what a resumption must not change besides the recipe.
        stepper: takes the steps.
        batches: given the steps to do, yields the batch of each; a function of recipe and step.
        images: images of a step, on all ranks together.
        weights: name of the file of the trained head.
        write: given its path, writes it.
    """

    recipe: HeadRecipe
    description: Mapping[str, Any]
    stepper: Stepper[Batch]
    batches: Callable[[range], Generator[Batch]]
    images: int
    weights: str
    write: Callable[[Path], None]


def run(
    training: Training[Batch],
    out: Path,
    *,
    ranks: Ranks,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    listener: log.Listener | None = None,
) -> Outcome:
    """Train into a run directory. SIGTERM and Ctrl-C end the training with a checkpoint.

    Args:
        training: what is trained.
        out: run directory.
        ranks: this process among those that train together; the first one writes.
        resume: go on with the run in `out`; begin it if there is none.
        overwrite: delete the run in `out` first.
        quiet: show no progress bar.
        listener: receives each step in place of a progress bar.

    Raises:
        OutputExists, Conflict: `out` holds something else; see `run_directory.prepare`.
        Diverged: see `Stepper.step`.
    """
    recipe = training.recipe
    with RunLock(out) as lock:
        ranks.first_alone(
            lambda: run_directory.prepare(
                out, recipe=recipe, training=training.description, lock=lock, resume=resume, overwrite=overwrite
            )
        )
        first_step = run_directory.steps_done(out)
        if first_step:
            training.stepper.restore(checkpoints.load(out / CHECKPOINTS))
        if ranks.first:
            log.truncate(out, after_step=first_step or -1)
        logger = log.RunLogger(
            out,
            done=first_step,
            steps=recipe.steps,
            tensorboard=False,
            silent=not ranks.first,
            quiet=quiet,
            listener=listener,
        )
        batches = training.batches(range(first_step, recipe.steps))
        with StopRequest() as stop, logger, closing(batches):
            if lock.note:
                logger.show(f"note: {lock.note}")
            step = _steps(training, batches, first_step=first_step, stop=stop, out=out, logger=logger, ranks=ranks)
        weights = out / training.weights
        if step == recipe.steps and ranks.first and not weights.exists():
            training.write(weights)
    return Outcome(step=step, steps=recipe.steps, first=ranks.first)


def _steps(
    training: Training[Batch],
    batches: Iterator[Batch],
    *,
    first_step: int,
    stop: StopRequest,
    out: Path,
    logger: log.RunLogger,
    ranks: Ranks,
) -> int:
    """Take steps, write the log and checkpoints; return the number of steps done."""
    recipe, step, began_s = training.recipe, first_step, time.perf_counter()
    for batch in batches:
        waited_s = time.perf_counter() - began_s
        numbers = training.stepper.step(batch, step)
        step += 1
        taken_s = time.perf_counter() - began_s
        rate = {"images_per_s": training.images / taken_s, "step_s": taken_s, "data_wait_s": waited_s}
        logger.step({"step": step, **numbers, **rate})
        began_s = time.perf_counter()
        stopping = bool(ranks.total(torch.tensor(float(stop.requested))))  # all ranks end after the same step
        every = recipe.checkpoint.every_steps
        if ranks.first and (step == recipe.steps or stopping or (every and step % every == 0)):
            checkpoints.save(out / CHECKPOINTS, training.stepper.checkpoint(step), keep=recipe.checkpoint.keep)
        if stopping:
            break
    return step
