"""The story of a training, top to bottom: caches, student, starting point, batches, steps, curves."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from store.common.text import random_weights_note
from store.errors import InvalidInput
from train.data.buffers import row_bytes
from train.data.loader import Loader
from train.data.mixture import cached_forms
from train.data.selection import Selection
from train.distributed import join_ranks
from train.memory import too_many
from train.objective.target_statistics import note_on_codes, set_exact
from train.recipe.config import Recipe
from train.run import checkpoints, curves, directory, load, log, trackers
from train.run.checkpoints import Checkpoint
from train.run.interrupt import StopRequest
from train.run.lock import RunLock
from train.run.output import CHECKPOINTS
from train.run.resume import open_data, refuse_other_data
from train.step import Stepper, slow_bf16
from train.validate import measure


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """End of a training.

    Attributes:
        step: optimizer steps done.
        steps: optimizer steps of the whole run.
        first: whether this process is the first rank, the one that reports.
    """

    step: int
    steps: int
    first: bool

    @property
    def finished(self) -> bool:
        """True if all steps are done."""
        return self.step >= self.steps


def train(
    recipe: Recipe,
    *,
    caches: Sequence[str],
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    selection: Selection | None = None,
    listener: log.Listener | None = None,
) -> Outcome:
    """Train a student from sealed caches into a run directory.

    Everything random is a function of (seed, step), so a run that was killed and resumed takes the same steps as an
    uninterrupted one; on the CPU, bit for bit. Under torchrun the ranks share the global batch. SIGTERM and Ctrl-C end
    the training with a checkpoint.

    Args:
        recipe: complete configuration.
        caches: locations of the caches.
        out: run directory.
        resume: continue the run in `out` from its newest checkpoint; begin it if there is none.
        overwrite: delete the run in `out` first.
        quiet: show no progress bar.
        selection: datasets, rows and teachers of a run that begins; None selects as the recipe says. A run that was
            begun goes on with its own.
        listener: receives each step and each line in place of a progress bar.

    Raises:
        InvalidConfig, InvalidInput: recipe, caches and machine do not fit together; all problems are listed.
        OutputExists, Conflict: `out` holds something else; see `train.run.directory.prepare`.
        Diverged: a loss was not finite; its rows are named.
    """
    if recipe.machine.threads:
        torch.set_num_threads(recipe.machine.threads)
    with join_ranks(recipe.machine.device) as ranks, RunLock(out) as lock:
        # One training at a time: a run that another process trains is refused before anything is read.
        ranks.first_alone(lambda: directory.lock_run(out, lock))

        # The rows that the recipe selects from the caches. A resumed run no longer needs its start checkpoint.
        checkpoint_directory = out / CHECKPOINTS
        begins = not (resume and checkpoints.saved(checkpoint_directory))
        stored = directory.begun(out) if resume else None
        if stored is not None and checkpoints.saved(checkpoint_directory)[-1:] == [recipe.steps]:
            refuse_other_data(stored, caches, recipe=recipe, out=out)
            ranks.first_alone(lambda: _complete(out, recipe, lock))
            return Outcome(step=recipe.steps, steps=recipe.steps, first=ranks.first)
        mixture, bound, note = open_data(
            recipe,
            caches,
            out=out,
            stored=stored or selection,
            begins=begins,
            problems=load.recipe_problems(recipe, begins=begins),
        )

        batch_of_rank = recipe.data.batch // ranks.world
        forms = cached_forms(mixture.sources, mixture.teachers)
        bytes_per_row = row_bytes(mixture.teachers, image_size=mixture.image_size, forms=forms)
        problem = too_many(batch=batch_of_rank, row_bytes=bytes_per_row, prefetch=recipe.machine.prefetch)
        if problem:
            raise InvalidInput(problem)

        # The student with its projectors, the statistics of its targets, the optimizer and its schedules.
        distiller, norms = (load.build_initial if begins else load.build_from_seed)(recipe, bound.description)
        distiller.to(ranks.device).train()
        norms.to(ranks.device)
        stepper = Stepper(recipe=recipe, mixture=mixture, distiller=distiller, norms=norms, ranks=ranks)

        # The run directory. Nothing is written before here, where every problem of the configuration is known.
        ranks.first_alone(
            lambda: directory.prepare(
                out, recipe=recipe, selection=bound, lock=lock, resume=resume, overwrite=overwrite
            )
        )

        # The starting point: the newest checkpoint, or step 0.
        first_step = (checkpoints.saved(checkpoint_directory) or [0])[-1]
        if first_step:
            saved = checkpoints.load(checkpoint_directory)
            load.restore_model(distiller, norms, saved.model, source=f"checkpoint of step {first_step} of '{out}'")
            checkpoints.restore_optimizer(stepper.optimizer, distiller, saved.optimizer)
            del saved
        elif recipe.targets.norm == "exact":
            set_exact(norms, mixture, over_subset=recipe.targets.statistics == "subset")
        followers = None
        if ranks.first:
            followers = trackers.open_trackers(recipe, out)
            log.truncate(out, after_step=first_step if first_step else -1)

        # The batches of this rank, and the log.
        loader = Loader(
            sources=mixture.sources,
            teachers=mixture.teachers,
            image_size=mixture.image_size,
            plan=stepper.plan,
            steps=range(first_step, recipe.steps),
            batch=batch_of_rank,
            device=ranks.device,
            readers=recipe.machine.readers,
            prefetch=recipe.machine.prefetch,
            verify=recipe.machine.verify,
            raw=True,
        )
        run_logger = log.RunLogger(
            out,
            done=first_step,
            steps=recipe.steps,
            tensorboard=recipe.log.tensorboard,
            silent=not ranks.first,
            quiet=quiet,
            listener=listener,
            follower=followers,
        )
        parameters = sum(parameter.numel() for parameter in distiller.parameters())
        for text in (lock.note, note, slow_bf16(recipe, ranks.device), note_on_codes(forms, recipe)):
            if text:
                run_logger.show(f"note: {text}")
        warning = random_weights_note(name for name, teacher in mixture.teachers.items() if teacher.random_weights)
        if warning:
            run_logger.show(f"warning: {warning}")
        run_logger.show(
            f"{out.name}: {sum(mixture.group_rows.values()):,} rows in groups {mixture.group_rows}, teachers "
            f"{', '.join(mixture.teachers)}; {parameters / 1e6:.1f} M parameters on {ranks.device}; "
            f"{'pinned' if ranks.device.type == 'cuda' else 'host'} memory for {batch_of_rank} x "
            f"{bytes_per_row / 1e6:.2f} MB x {recipe.machine.prefetch + 1} batches: {loader.host_bytes / 1e6:.0f} MB"
        )

        def validate(step: int) -> None:
            if mixture.held_out:
                fidelity = measure(recipe=recipe, mixture=mixture, distiller=distiller, norms=norms, ranks=ranks)
                run_logger.fidelity({"step": step, "datasets": fidelity})

        def save(step: int) -> None:
            if ranks.first:
                checkpoint = Checkpoint(
                    step=step,
                    model=load.model_tensors(distiller, norms),
                    optimizer=checkpoints.optimizer_tensors(stepper.optimizer, distiller),
                    state={"steps": recipe.steps, "images": step * recipe.data.batch, "torch": torch.__version__},
                )
                checkpoints.save(checkpoint_directory, checkpoint, keep=recipe.checkpoint.keep)

        # The steps. A step's record is written while the next step is computed, so that nobody waits for the GPU.
        step = first_step
        with StopRequest() as stop, loader, run_logger:
            if first_step == 0 and recipe.log.fidelity_every_steps:
                validate(0)
            unwritten, waited_s, began_s = None, 0.0, time.perf_counter()
            for batch in loader:
                result = stepper.step(batch, stop=stop.requested)
                step = batch.step + 1
                if unwritten is not None:
                    run_logger.step(unwritten.record())
                now_s = time.perf_counter()
                result.numbers["step_s"] = now_s - began_s
                result.numbers["images_per_s"] = recipe.data.batch / (now_s - began_s)
                result.numbers["data_wait_s"] = loader.waited_s - waited_s
                unwritten, waited_s, began_s = result, loader.waited_s, now_s

                last = step == recipe.steps or result.stop
                validates = _due(step, recipe.log.fidelity_every_steps)
                saves = _due(step, recipe.checkpoint.every_steps)
                if validates or saves or last:
                    run_logger.step(unwritten.record())
                    unwritten = None
                    if validates or step == recipe.steps:
                        validate(step)
                    if saves or last:
                        save(step)
                    began_s = time.perf_counter()
                if result.stop:
                    break

            # The end: curves for people.
            if ranks.first and step == recipe.steps:
                run_logger.picture("curves", curves.plot_curves(out), step=step)
        return Outcome(step=step, steps=recipe.steps, first=ranks.first)


def _complete(out: Path, recipe: Recipe, lock: RunLock) -> None:
    """Check the last checkpoint of a finished run, remove what crashed saves left, and plot its curves if absent."""
    checkpoints.sweep(out / CHECKPOINTS, locked=lock.held)
    checkpoints.check(out / CHECKPOINTS, recipe.steps)
    if not (out / curves.FILE).exists():
        curves.plot_curves(out)


def _due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
