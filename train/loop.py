"""A run from its recipe to its last checkpoint, top to bottom."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from train.data.buffers import row_bytes
from train.data.loader import Loader
from train.data.open_caches import describe, open_mixture
from train.distributed import joined
from train.objective.target_statistics import set_exact
from train.recipe.config import Recipe
from train.run import checkpoints, curves, directory, load, log
from train.run.checkpoints import Checkpoint
from train.run.interrupt import StopRequest
from train.step import Stepper
from train.validate import measure


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: steps done.
        steps: of the whole run.
        first: whether this is the rank that reports.
    """

    step: int
    steps: int
    first: bool

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.step >= self.steps


def train(
    recipe: Recipe,
    *,
    caches: Sequence[str],
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Train a student from sealed caches into a run directory.

    Everything random is a function of (seed, step), so a run that was killed and resumed takes the steps of one that
    was not; on the CPU, bit for bit. Under torchrun the ranks share the global batch. SIGTERM and Ctrl-C end with a
    checkpoint.

    Args:
        recipe: complete.
        caches: locations.
        out: run directory.
        resume: go on from its last checkpoint, or begin if there is nothing.
        overwrite: delete the run that is there.
        quiet: no progress bar.

    Raises:
        InvalidConfig, InvalidInput: recipe, caches and machine do not fit; all problems are listed.
        OutputExists, Conflict: see `train.rundir.prepare`.
        Diverged: a loss was not finite; the rows are named.
    """
    if recipe.machine.threads:
        torch.set_num_threads(recipe.machine.threads)

    with joined(recipe.machine.device) as ranks:
        # What is trained, on what, and who else is allowed to have begun this directory.
        place = out / directory.CHECKPOINTS
        begins = not (resume and checkpoints.saved(place))  # else nobody asks again for what it started from
        mixture = open_mixture(recipe, caches, problems=load.problems_of(recipe, begins=begins))
        description = describe(mixture)
        distiller, norms = (load.build if begins else load.fresh)(recipe, description)
        distiller.to(ranks.device).train()
        norms.to(ranks.device)
        stepper = Stepper(recipe=recipe, mixture=mixture, distiller=distiller, norms=norms, ranks=ranks)
        ranks.first_alone(
            lambda: directory.prepare(out, recipe=recipe, description=description, resume=resume, overwrite=overwrite)
        )

        # Where it begins: at step 0, or behind the newest checkpoint.
        done = (checkpoints.saved(place) or [0])[-1]
        if done == recipe.steps and (out / curves.FILE).exists():
            return Outcome(step=done, steps=recipe.steps, first=ranks.first)
        if done:
            saved = checkpoints.load(place)
            load.restore(distiller, norms, saved.model, source=f"checkpoint of step {done} of '{out}'")
            checkpoints.restore_optimizer(stepper.optimizer, distiller, saved.optimizer)
            del saved
        elif recipe.targets.norm == "exact":
            set_exact(norms, mixture, over_subset=recipe.targets.statistics == "subset")
        if ranks.first:
            log.cut(out, done if done else -1)

        share = recipe.data.batch // ranks.world
        loader = Loader(
            sources=mixture.sources,
            teachers=mixture.teachers,
            image_size=mixture.image_size,
            plan=stepper.plan,
            steps=range(done, recipe.steps),
            batch=share,
            device=ranks.device,
            readers=recipe.machine.readers,
            prefetch=recipe.machine.prefetch,
            verify=recipe.machine.verify,
        )
        journal = log.RunLogger(
            out,
            done=done,
            steps=recipe.steps,
            tensorboard=recipe.log.tensorboard,
            silent=not ranks.first,
            quiet=quiet,
        )
        one_row = row_bytes(mixture.teachers, image_size=mixture.image_size)
        parameters = sum(parameter.numel() for parameter in distiller.parameters())
        journal.say(
            f"{out.name}: {sum(mixture.group_rows.values()):,} rows in groups {mixture.group_rows}, teachers "
            f"{', '.join(mixture.teachers)}; {parameters / 1e6:.1f} M parameters on {ranks.device}; "
            f"{'pinned' if ranks.device.type == 'cuda' else 'host'} memory for {share} x {one_row / 1e6:.2f} MB x "
            f"{recipe.machine.prefetch + 1} batches: {loader.host_bytes / 1e6:.0f} MB"
        )

        def save(step: int) -> None:
            if ranks.first:
                checkpoint = Checkpoint(
                    step=step,
                    model=load.state_of(distiller, norms),
                    optimizer=checkpoints.optimizer_tensors(stepper.optimizer, distiller),
                    state={"steps": recipe.steps, "images": step * recipe.data.batch, "torch": torch.__version__},
                )
                checkpoints.save(place, checkpoint, keep=recipe.checkpoint.keep)

        def look(step: int) -> None:
            if mixture.held_out:
                found = measure(recipe=recipe, mixture=mixture, distiller=distiller, norms=norms, ranks=ranks)
                journal.fidelity({"step": step, "datasets": found})

        # The steps. A step's record is written while the next one is being computed, so that a GPU is not waited for.
        step = done
        with StopRequest() as stop, loader, journal:
            if done == 0 and recipe.log.fidelity_every_steps:
                look(0)
            pending, waited, began = None, 0.0, time.perf_counter()
            for batch in loader:
                result = stepper.step(batch, stop=stop.requested)
                step = batch.step + 1
                if pending is not None:
                    journal.step(pending.record())
                now = time.perf_counter()
                result.numbers["step_s"] = now - began
                result.numbers["images_per_s"] = recipe.data.batch / (now - began)
                result.numbers["data_wait_s"] = loader.waited_s - waited
                pending, waited, began = result, loader.waited_s, now

                last = step == recipe.steps or result.stop
                looks, saves = _due(step, recipe.log.fidelity_every_steps), _due(step, recipe.checkpoint.every_steps)
                if looks or saves or last:
                    journal.step(pending.record())
                    pending = None
                    if looks or step == recipe.steps:
                        look(step)
                    if saves or last:
                        save(step)
                    began = time.perf_counter()
                if result.stop:
                    break

        # The end: pictures for people.
        if ranks.first and step == recipe.steps:
            curves.draw(out)
        return Outcome(step=step, steps=recipe.steps, first=ranks.first)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
