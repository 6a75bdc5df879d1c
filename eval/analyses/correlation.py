"""Correlation of loss updates between teachers (Fig. 5), from a run's log and from replayed steps on a probe batch.

A high correlation means that updates which lower the loss of one teacher lower that of the other too; a low one means
that the teachers' gradients disagree. Shapes: S steps, T teachers, W windows.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from backbones.images import normalise
from eval.fidelity import rows
from store.errors import InvalidInput
from train.data.loader import Batch, Loader
from train.data.mixture import Mixture
from train.distributed import join_ranks
from train.model.distiller import Distiller
from train.objective.batch_losses import BatchLosses
from train.objective.targets import TargetNorms
from train.run import checkpoints, load, log
from train.run.load import Run
from train.run.output import CHECKPOINTS
from train.step import Stepper


@dataclass(frozen=True, kw_only=True)
class UpdateCorrelation:
    """Pearson correlation and sign agreement of the teachers' loss changes, by window.

    Attributes:
        teachers: names of the teachers.
        first_step: int64 (W,), first step of each window.
        pearson: float64 (W, T, T); NaN where undefined.
        sign_agreement: float64 (W, T, T); NaN where undefined.
    """

    teachers: tuple[str, ...]
    first_step: np.ndarray
    pearson: np.ndarray
    sign_agreement: np.ndarray

    def mean_pearson(self) -> np.ndarray:
        """Average the Pearson correlation (T, T) over the windows in which it is defined; NaN where in none."""
        defined = np.isfinite(self.pearson)
        total = np.where(defined, self.pearson, 0.0).sum(0)
        count = defined.sum(0)
        return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Settings of a replay with a fixed probe batch.

    Attributes:
        steps: number of updates to replay.
        from_step: step of a saved checkpoint to replay from; 0 is the beginning of the run.
        rows: size of the probe batch, sampled from the training rows, equally many of each group.
    """

    steps: int = 50
    from_step: int = 0
    rows: int = 64


def from_log(run: Run, *, window: int) -> UpdateCorrelation:
    """Correlate the changes of the logged losses (batch means before teacher dropping).

    Args:
        run: run whose log is read.
        window: consecutive steps to correlate together.

    Raises:
        InvalidInput: the log has fewer than three consecutive steps, or one teacher only.
    """
    records = log.read(run.directory, log.STEP)
    teachers = _teachers(run)
    steps = [record["step"] for record in records] or [1]
    first = steps[0]
    # A step that is not logged, or has no image for a teacher (None), is NaN; the others keep their numbers.
    losses = np.full((steps[-1] - first + 1, len(teachers)), np.nan)
    for record in records:
        losses[record["step"] - first] = [record["loss_per_teacher"][name] for name in teachers]
    changes = np.diff(losses, axis=0)
    if np.isfinite(changes).all(axis=1).sum() < 2:
        raise InvalidInput(
            f"run '{run.directory}': {len(records)} logged steps are too few to correlate loss updates, 3 at least"
        )
    return correlate_updates(changes, teachers, window=window, first_step=first + 1)


def on_probe(
    run: Run, mixture: Mixture, probe: Probe, *, window: int, device: torch.device, progress: bool = False
) -> UpdateCorrelation:
    """Replay steps of the run and correlate how each changes the losses on a fixed batch.

    The steps are those of the training, sampled rows and masks included; nothing in the run directory changes.

    Args:
        run: run to replay.
        mixture: rows of the run's caches.
        probe: steps to replay and size of the batch.
        window: consecutive steps to correlate together.
        device: device to compute on.
        progress: show a progress bar.

    Raises:
        MissingFile: no checkpoint of that step; the available ones are listed.
        InvalidInput: one teacher only, or no step left to replay.
    """
    last = min(probe.from_step + probe.steps, run.recipe.steps)
    if last - probe.from_step < 2:
        raise InvalidInput(
            f"run '{run.directory}' has {run.recipe.steps} steps: none left to replay from {probe.from_step}. "
            "Choose an earlier --from-step"
        )
    teachers = _teachers(run)
    selection = rows.balanced(mixture, rows=probe.rows, seed=run.recipe.seed)
    with join_ranks(str(device)) as ranks:
        size = max(1, len(selection))
        ((_, batch),) = rows.batches(selection, mixture, device=ranks.device, batch=size, raw=True)
        batch = _copied(batch)
        distiller, norms, optimizer = _state_after(run, probe.from_step)
        stepper = Stepper(
            recipe=run.recipe,
            mixture=mixture,
            distiller=distiller.to(ranks.device).train(),
            norms=norms.to(ranks.device),
            ranks=ranks,
        )
        checkpoints.restore_optimizer(stepper.optimizer, distiller, optimizer)
        of_batch = BatchLosses(
            sources=selection.sources, teachers=mixture.teachers, norms=norms, weights=run.recipe.loss
        )
        losses = [_losses(distiller, of_batch, batch=batch)]
        with _loader(run, mixture, stepper, range(probe.from_step, last)) as loader:
            for step in tqdm(loader, total=last - probe.from_step, desc="replay", unit="step", disable=not progress):
                stepper.step(step).record()
                losses.append(_losses(distiller, of_batch, batch=batch))
    return correlate_updates(np.diff(np.array(losses), axis=0), teachers, window=window, first_step=probe.from_step + 1)


def correlate_updates(
    changes: np.ndarray, teachers: tuple[str, ...], *, window: int, first_step: int = 1
) -> UpdateCorrelation:
    """Correlate the loss changes of every pair of teachers in windows of consecutive steps.

    Args:
        changes: float64 (S, T), the change of each teacher's loss by each update: differences of logged losses, or
            after - before on a fixed probe batch (without noise from the change of batch). An update that is not known
            for all teachers (NaN) is left out of its window; the others keep their steps.
        teachers: names of the T teachers.
        window: steps in a window; one with fewer than two known updates is left out.
        first_step: step of the first update.
    """
    known = np.isfinite(changes).all(axis=1)
    starts = [start for start in range(0, len(changes), window) if known[start : start + window].sum() >= 2]
    count = len(teachers)
    correlation = np.full((len(starts), count, count), np.nan)
    agreement = correlation.copy()
    for index, start in enumerate(starts):
        part = changes[start : start + window][known[start : start + window]]
        for i in range(count):
            for j in range(count):
                correlation[index, i, j] = pearson(part[:, i], part[:, j])
                agreement[index, i, j] = sign_agreement(part[:, i], part[:, j])
    return UpdateCorrelation(
        teachers=teachers,
        first_step=np.array(starts, dtype=np.int64) + first_step,
        pearson=correlation,
        sign_agreement=agreement,
    )


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Pearson correlation of two (S,) series; NaN if either does not vary."""
    a, b = first - first.mean(), second - second.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    if not np.isfinite(scale) or scale <= 0:
        return float("nan")
    return float(np.clip(a @ b / scale, -1.0, 1.0))


def sign_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the share of steps at which two (S,) series change with the same sign; zeros of either do not count."""
    changing = (first != 0) & (second != 0)
    if not changing.any():
        return float("nan")
    return float((np.sign(first[changing]) == np.sign(second[changing])).mean())


def as_json(updates: UpdateCorrelation) -> dict[str, Any]:
    """Return JSON data with the means over windows added; NaN becomes None."""

    def plain(values: np.ndarray) -> Any:
        entries = values.astype(object)
        entries[~np.isfinite(values)] = None
        return entries.tolist()

    return {
        "teachers": list(updates.teachers),
        "first_step": updates.first_step.tolist(),
        "pearson": plain(updates.pearson),
        "sign_agreement": plain(updates.sign_agreement),
        "mean_pearson": plain(updates.mean_pearson()),
    }


def pairs(teachers: Sequence[str]) -> list[tuple[int, int]]:
    """List the indices of every pair of teachers once."""
    return [(i, j) for i in range(len(teachers)) for j in range(i + 1, len(teachers))]


def _teachers(run: Run) -> tuple[str, ...]:
    teachers = tuple(run.distiller.teachers)
    if len(teachers) < 2:
        raise InvalidInput(f"run '{run.directory}' has one teacher ({teachers[0]}): there is nothing to correlate")
    return teachers


def _state_after(run: Run, step: int) -> tuple[Distiller, TargetNorms, dict[str, Tensor]]:
    """Restore student, target statistics and optimizer as they were after `step` steps."""
    distiller, norms = load.build_initial(run.recipe, run.description)
    if step == 0:
        # Exact statistics never change; running ones start from their initial values.
        return distiller, deepcopy(run.target_norms) if run.recipe.targets.norm == "exact" else norms, {}
    saved = checkpoints.load(run.directory / CHECKPOINTS, step)
    load.restore_model(distiller, norms, saved.model, source=f"checkpoint of step {step} of run '{run.directory}'")
    return distiller, norms, dict(saved.optimizer)


def _loader(run: Run, mixture: Mixture, stepper: Stepper, steps: range) -> Loader:
    machine = run.recipe.machine
    return Loader(
        sources=mixture.sources,
        teachers=mixture.teachers,
        image_size=mixture.image_size,
        plan=stepper.plan,
        steps=steps,
        batch=run.recipe.data.batch,
        device=stepper.ranks.device,
        readers=machine.readers,
        prefetch=machine.prefetch,
        verify=machine.verify,
        raw=True,
    )


def _copied(batch: Batch) -> Batch:
    """Copy a batch out of its loader's buffers."""
    codes = {
        name: replace(
            stored,
            codes=stored.codes.clone(),
            rows=stored.rows.clone(),
            patches=None if stored.patches is None else stored.patches.clone(),
        )
        for name, stored in batch.codes.items()
    }
    tokens = {name: tokens.clone() for name, tokens in batch.tokens.items()}
    return replace(batch, pixels=batch.pixels.clone(), tokens=tokens, codes=codes)


@torch.no_grad()
def _losses(distiller: Distiller, of_batch: BatchLosses, *, batch: Batch) -> list[float]:
    """Compute the loss of every teacher on the probe batch, in float32 and evaluation mode."""
    distiller.eval()
    by_teacher = of_batch.of(distiller(normalise(batch.pixels)), batch)
    losses = []
    for loss, read in zip(by_teacher.values(), batch.read, strict=True):
        losses.append(float(loss.per_image[torch.from_numpy(read)].double().mean()))
    distiller.train()
    return losses
