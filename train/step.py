"""One optimizer step: forward, loss, teacher dropping, backward, clipping, AdamW, as DUNE does it.

Shapes: B images of the global batch, b images of this rank, m of a micro-batch, T teachers (sorted), N tokens,
C channels, G groups.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from backbones.images import normalise
from store.common.stateless_random import Int64, key
from store.common.text import some
from store.errors import Diverged
from train.data import augment
from train.data.buffers import to_device
from train.data.loader import Batch
from train.data.mixture import Mixture, RowSelection
from train.data.sampler import Sampler, slice_of_rank
from train.data.teacher_sharing import eligibility_table
from train.distributed import Ranks
from train.model.distiller import Distiller
from train.objective.batch_losses import BatchLosses
from train.objective.losses import TeacherLoss, combine
from train.objective.targets import TargetNorms, TeacherNorm
from train.objective.teacher_dropping import coefficients, keep_mask, kept_count, sample_drop_uniforms
from train.optim import adamw, clip_per_tensor, ema_momentum, learning_rate, peak_rate, set_lr
from train.recipe.config import Recipe

PLAIN_ATTENTION_TOKENS = 200  # below, the plain formula is faster on a CPU; see `arithmetic`


class HostCopy:
    """A copy of a small tensor to host memory that the GPU makes between its other work."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._copy.copy_(tensor.detach(), non_blocking=True)
        self._event: Any = None
        if tensor.is_cuda:
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def numpy(self) -> "np.ndarray[Any, np.dtype[Any]]":
        """Wait for the copy and return it."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy.numpy()


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of a step, as far as it is known before the GPU is done.

    Attributes:
        numbers: numbers for the log, over all ranks.
        stop: True if some rank was asked to stop.
        gradient_norms: norm of each parameter tensor's gradient before clipping.
    """

    numbers: dict[str, Any]
    stop: bool
    gradient_norms: HostCopy

    def record(self) -> dict[str, Any]:
        """Return the record for the log, after waiting for the whole step.

        Raises:
            Diverged: the gradient was not finite, so the weights are not either.
        """
        norm = float(np.sqrt(np.square(self.gradient_norms.numpy().astype(np.float64)).sum()))
        if not np.isfinite(norm):
            raise Diverged(
                f"step {self.numbers['step']}: the gradient is not finite although the loss is; the last checkpoint "
                "is from before. Lower optim.lr, or use --optim.precision fp32"
            )
        return {**self.numbers, "grad_norm": norm}


@dataclass(frozen=True, kw_only=True)
class _MicroBatchLosses:
    """Losses of one micro-batch, for the log.

    Attributes:
        table: (T + T + terms, m), the loss of each image for every teacher, the same corrected, then their terms.
        sums: (2 + T,), the total loss, the same corrected, then the number of images that each teacher was kept for.
    """

    table: HostCopy
    sums: HostCopy


class Stepper:
    """Holds the student, its optimizer and the target statistics, and takes steps.

    A step depends on (recipe, step, batch) and the weights alone: masks, random numbers and torch's random state are
    functions of (seed, step), so a resumed run takes the same steps.
    """

    def __init__(
        self, *, recipe: Recipe, mixture: Mixture, distiller: Distiller, norms: TargetNorms, ranks: Ranks
    ) -> None:
        """Build the optimizer and the schedules.

        Args:
            recipe: complete configuration.
            mixture: rows and teachers.
            distiller: student and projectors, on the rank's device already.
            norms: statistics of the targets, on the rank's device already.
            ranks: this process among the others.

        Raises:
            InvalidInput: the sharing mode leaves a group without a teacher, or the batch does not divide.
        """
        self.distiller, self.norms, self.ranks = distiller, norms, ranks
        self._recipe, self._mixture = recipe, mixture
        self.sampler = Sampler(seed=recipe.seed, batch=recipe.data.batch, groups=mixture.group_rows)
        self._slots_of_rank = slice_of_rank(recipe.data.batch, ranks.rank, ranks.world)
        self._eligible = eligibility_table(
            recipe.sharing.mode,
            groups=tuple(mixture.groups),
            teacher_groups=mixture.teacher_groups(),
            generic_groups=recipe.sharing.generic_groups,
        )  # (T, G)
        peak = peak_rate(recipe.optim.lr, batch=recipe.data.batch)
        schedule = recipe.schedule
        self._rates = learning_rate(peak=peak, steps=recipe.steps, warmup=schedule.warmup, minimum=schedule.minimum_lr)
        self._momenta = ema_momentum(steps=recipe.steps, start=recipe.targets.ema_start, end=recipe.targets.ema_end)
        self.optimizer = adamw(
            distiller,
            lr=0.0,
            betas=recipe.optim.betas,
            eps=recipe.optim.eps,
            weight_decay=recipe.optim.weight_decay,
        )
        self._losses = BatchLosses(sources=mixture.sources, teachers=mixture.teachers, norms=norms, weights=recipe.loss)
        self._parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        self._model = _compiled_and_parallel(distiller, recipe=recipe, ranks=ranks)

    def plan(self, step: int) -> RowSelection:
        """Return this rank's rows of a step."""
        return self._mixture.locate(self.sampler.sample_batch(step))[self._slots_of_rank]

    def step(self, batch: Batch, *, stop: bool = False) -> StepResult:
        """Take one step.

        Args:
            batch: this rank's part of the global batch of `batch.step`.
            stop: True if this rank was asked to stop; the other ranks learn it with the numbers of this step.

        Raises:
            Diverged: a loss is not finite; no weight was changed. The rows are listed.
        """
        torch.manual_seed(key("torch", self._recipe.seed, batch.step, self.ranks.rank) >> 1)
        set_lr(self.optimizer, float(self._rates[batch.step]))
        numbers, stop_all = self._numbers(batch, self._backward(batch), stop=stop)
        clip = self._recipe.optim.clip_norm or float("inf")
        norms = HostCopy(clip_per_tensor(self._parameters, clip))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(numbers=numbers, stop=stop_all, gradient_norms=norms)

    def _backward(self, batch: Batch) -> "list[_MicroBatchLosses]":
        """Compute loss and gradient of all micro-batches; copy the losses for the log while backward runs."""
        recipe, device, slots = self._recipe, self.ranks.device, batch.rows.slot
        groups = self.sampler.sample_batch(batch.step).group  # (B,)
        eligible = self._eligible[:, groups]  # (T, B)
        uniforms = sample_drop_uniforms(
            seed=recipe.seed, step=batch.step, images=len(groups), teachers=len(eligible)
        )  # (B, T - 1)
        per_rank = recipe.sharing.normalise == "per_rank"
        counted = slots if per_rank else slice(None)
        drop = recipe.sharing.drop_probability
        count = kept_count(eligible[:, counted], uniforms[counted], drop_probability=drop)
        scale = 1 if per_rank else self.ranks.world  # DDP averages over the ranks
        norms = self._norms_of(batch)
        rank_eligible, rank_uniforms = to_device(eligible[:, slots], device), to_device(uniforms[slots], device)
        losses = []
        parts = list(_micro_batches(len(batch.rows), recipe.optim.micro_batches))
        for part in parts:
            with self._reducing(part is parts[-1]):
                by_teacher = self._forward(batch, part, norms)
                per_image = torch.stack([teacher.per_image for teacher in by_teacher.values()])  # (T, m)
                # Codes of teachers differ in their noise: only estimates of losses on true targets compare.
                true = torch.stack([teacher.against_true for teacher in by_teacher.values()])  # (T, m)
                keep = keep_mask(true, rank_eligible[:, part], rank_uniforms[part], drop_probability=drop)
                shares = coefficients(keep, count=count)
                loss = combine(per_image, shares)
                sums = torch.cat([loss.detach()[None], combine(true, shares)[None], keep.sum(dim=1)])
                losses.append(_MicroBatchLosses(table=HostCopy(_table_of(by_teacher)), sums=HostCopy(sums)))
                torch.autograd.backward(loss * scale)
        return losses

    def _forward(self, batch: Batch, part: slice, norms: Mapping[str, TeacherNorm]) -> dict[str, TeacherLoss]:
        """Compute the loss of each image of a micro-batch against every teacher."""
        pixels = batch.pixels[part]
        if self._recipe.data.augment == "photometric":
            numbers = augment.sample_parameters(seed=self._recipe.seed, step=batch.step, images=self._recipe.data.batch)
            pixels = augment.photometric(pixels, to_device(numbers[batch.rows.slot[part]], pixels.device))
        with arithmetic(self._recipe, pixels):
            predicted = self._model(normalise(pixels))
        return self._losses.of(predicted, batch, part=part, norms=norms)

    def _norms_of(self, batch: Batch) -> dict[str, TeacherNorm]:
        """Return the statistics for the targets of a batch; running averages are updated with it."""
        if self._recipe.targets.norm == "exact":
            return {name: self.norms.stored(name) for name in batch.teachers}
        momentum = float(self._momenta[batch.step])
        gather = self.ranks.gather if self.ranks.world > 1 else None
        return {
            name: self.norms.update(name, [tokens], momentum=momentum, gather=gather)
            for name, tokens in batch.tokens.items()
        }

    def _reducing(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-batch's backward: gradients are summed over ranks in the last one."""
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return nullcontext()

    def _numbers(self, batch: Batch, losses: "list[_MicroBatchLosses]", *, stop: bool) -> tuple[dict[str, Any], bool]:
        """Sum this rank's losses over all ranks, in one exchange; refuse numbers that are not finite.

        Returns:
            numbers for the log, and whether some rank was asked to stop.
        """
        teachers = batch.teachers
        table = np.concatenate([part.table.numpy() for part in losses], axis=1).astype(np.float64)  # (2 T + terms, b)
        loss_and_kept = np.sum([part.sums.numpy() for part in losses], axis=0, dtype=np.float64)  # (2 + T,)
        read = np.repeat(batch.read, _terms_per_teacher(self.distiller), axis=0)
        not_finite = np.flatnonzero(~np.isfinite(table[: len(teachers)]).all(axis=0))  # images of this rank
        counted = np.concatenate([batch.read, batch.read, read])  # (2 T + terms, b)
        sums, counts = np.where(counted, table, 0.0).sum(axis=1), counted.sum(axis=1)
        of_rank = np.concatenate([[len(not_finite), stop], np.nan_to_num(loss_and_kept), sums, counts])
        total = self.ranks.total(torch.from_numpy(of_rank)).numpy()
        if total[0]:
            self._raise_diverged(batch, not_finite)
        share = 1 / self.ranks.world if self._recipe.sharing.normalise == "per_rank" else 1.0
        kept, sums, counts = np.split(total[4:], [len(teachers), len(teachers) + len(table)])
        means = [float(value / count) if count else None for value, count in zip(sums, counts, strict=True)]
        numbers = {
            "step": batch.step + 1,
            "loss": float(total[2] * share),
            "loss_per_teacher": dict(zip(teachers, means, strict=False)),
            "kept": {name: float(n / self._recipe.data.batch) for name, n in zip(teachers, kept, strict=True)},
            "terms": _named_terms(self.distiller, means[2 * len(teachers) :]),
            "lr": float(self._rates[batch.step]),
        }
        if self._losses.corrects:
            numbers["corrected_loss"] = float(total[3] * share)
            numbers["corrected_loss_per_teacher"] = dict(zip(teachers, means[len(teachers) :], strict=False))
        return numbers, bool(total[1])

    def _raise_diverged(self, batch: Batch, not_finite: Int64) -> None:
        of_rank = [
            f"{self._mixture.sources[source].dataset.name}/{row}"
            for source, row in zip(batch.rows.source[not_finite], batch.rows.row[not_finite], strict=True)
        ]
        rows = [row for rows in self.ranks.collect(of_rank) for row in rows]
        raise Diverged(
            f"step {batch.step + 1}: the loss is not finite for {len(rows)} of {self._recipe.data.batch} images "
            f"(dataset/row: {some(rows, limit=20)}); nothing was changed. Show them with: codistill store show "
            "CACHE DATASET ROW. If they are all right, lower optim.lr or use --optim.precision fp32"
        )


@contextmanager
def arithmetic(recipe: Recipe, pixels: Tensor) -> Iterator[None]:
    """Set the arithmetic of the student's forward pass on `pixels` (B, H, W, 3): autocast and kind of attention.

    Autocast is the recipe's. On the CPU torch's fused bf16 attention takes 2.7 times as long as the plain formula
    with 65 tokens, and less than half as long with 577 (forward and backward, measured), so short sequences use the
    plain formula.
    """
    device = pixels.device.type
    bf16 = recipe.optim.precision == "bf16"
    tokens = pixels.shape[1] * pixels.shape[2] / recipe.student.patch_size**2
    plain = bf16 and device == "cpu" and tokens < PLAIN_ATTENTION_TOKENS and not recipe.optim.compile
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        if plain:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield


def slow_bf16(recipe: Recipe, device: torch.device) -> str:
    """Say that this processor has no instructions for bf16, if the recipe asks for them; empty otherwise."""
    if recipe.optim.precision != "bf16" or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    return (
        "this processor has no bf16 instructions, so a step can take thirty times as long as in float32: "
        "--optim.precision fp32"
    )


def _compiled_and_parallel(distiller: Distiller, *, recipe: Recipe, ranks: Ranks) -> Any:
    model: Any = torch.compile(distiller) if recipe.optim.compile else distiller
    if ranks.world == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def _micro_batches(images: int, parts: int) -> Iterator[slice]:
    """Cut a rank's batch into parts that differ by one image at most."""
    for number in range(parts):
        begin, end = images * number // parts, images * (number + 1) // parts
        if begin < end:
            yield slice(begin, end)


def _table_of(by_teacher: Mapping[str, TeacherLoss]) -> Tensor:
    """Stack the losses of all teachers, the same corrected, then their terms: (T + T + terms, m)."""
    plain = [teacher.per_image.detach() for teacher in by_teacher.values()]
    true = [teacher.against_true for teacher in by_teacher.values()]
    terms = [term for teacher in by_teacher.values() for term in teacher.terms.values()]
    return torch.stack([*plain, *true, *terms])


def term_names(distiller: Distiller) -> dict[str, list[str]]:
    """Return the names of each teacher's terms, in the order of `teacher_loss`."""
    return {
        name: [
            f"{kind}_{term}"
            for kind in (("cls", "patch") if teacher.prefix_tokens else ("patch",))
            for term in ("cosine_loss", "smooth_l1")
        ]
        for name, teacher in distiller.teachers.items()
    }


def _terms_per_teacher(distiller: Distiller) -> list[int]:
    return [len(names) for names in term_names(distiller).values()]


def _named_terms(distiller: Distiller, values: list[float | None]) -> dict[str, dict[str, float | None]]:
    rest = iter(values)
    return {name: {term: next(rest) for term in terms} for name, terms in term_names(distiller).items()}
