"""One optimizer step: what DUNE computes from a batch of pixels and raw teacher tokens.

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
from store.errors import Diverged
from train.data import augment
from train.data.loader import Batch
from train.data.mixture import Mixture, RowSelection
from train.data.sampler import Sampler, slice_of_rank
from train.data.teacher_sharing import eligibility_table
from train.distributed import Ranks
from train.model.distiller import Distiller
from train.objective.losses import LossWeights, TeacherLoss, combine, teacher_loss
from train.objective.targets import TargetNorms, TeacherNorm
from train.objective.teacher_dropping import coefficients, drop_draws, keep_mask, kept_count
from train.optim import adamw, clip_per_tensor, ema_momentum, learning_rate, peak_rate, set_lr
from train.recipe.config import Recipe
from train.stateless_random import Int64, key

PLAIN_ATTENTION_TOKENS = 200


class HostCopy:
    """A small tensor on its way to host memory; the GPU goes on meanwhile."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._copy.copy_(tensor.detach(), non_blocking=True)
        self._event: Any = None
        if tensor.is_cuda:
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def numpy(self) -> "np.ndarray[Any, np.dtype[Any]]":
        """Wait until it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy.numpy()


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step has to say.

    Attributes:
        numbers: for the log, over all ranks.
        stop: some rank was asked to stop.
        gradient_norms: norm of each parameter tensor's gradient before clipping.
    """

    numbers: dict[str, Any]
    stop: bool
    gradient_norms: HostCopy

    def record(self) -> dict[str, Any]:
        """The log record; waits for the whole step to have been computed.

        Raises:
            Diverged: the gradient was not finite, so the weights now are not either.
        """
        norm = float(np.sqrt(np.square(self.gradient_norms.numpy().astype(np.float64)).sum()))
        if not np.isfinite(norm):
            raise Diverged(
                f"step {self.numbers['step']}: the gradient is not finite although the loss is; the last checkpoint "
                "is from before. Lower optim.lr, or use --optim.precision fp32"
            )
        return {**self.numbers, "grad_norm": norm}


@dataclass(frozen=True, kw_only=True)
class _Copies:
    """Of one micro-batch: per-image losses of all teachers and then their terms; loss, and images kept per teacher."""

    table: HostCopy  # (T + terms, m)
    sums: HostCopy  # (1 + T,)


class Stepper:
    """Holds the student, its optimizer and the target statistics, and takes steps.

    What a step does depends on (recipe, step, batch) and the weights alone: masks, draws and even torch's random
    state are functions of (seed, step), so a resumed run takes the very same steps.
    """

    def __init__(
        self, *, recipe: Recipe, mixture: Mixture, distiller: Distiller, norms: TargetNorms, ranks: Ranks
    ) -> None:
        """Prepare for training; `distiller` and `norms` are on the rank's device already.

        Raises:
            InvalidInput: the sharing mode leaves a group without a teacher, or the batch does not divide.
        """
        self.distiller, self.norms, self.ranks = distiller, norms, ranks
        self._recipe = recipe
        self.sampler = Sampler(seed=recipe.seed, batch=recipe.data.batch, groups=mixture.group_rows)
        self._part = slice_of_rank(recipe.data.batch, ranks.rank, ranks.world)
        self._mixture = mixture
        self._table = eligibility_table(
            recipe.sharing.mode,
            groups=tuple(mixture.groups),
            teacher_groups=mixture.own_teachers(),
            generic_groups=recipe.sharing.generic_groups,
        )
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
        self._parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        self._weights = LossWeights(cosine=recipe.loss.cosine, smooth_l1=recipe.loss.smooth_l1)
        self._model = _wrapped(distiller, recipe=recipe, ranks=ranks)

    def plan(self, step: int) -> RowSelection:
        """The rows of `step` that are this rank's."""
        return self._mixture.locate(self.sampler.draw(step))[self._part]

    def step(self, batch: Batch, *, stop: bool = False) -> StepResult:
        """Take one step.

        Args:
            batch: this rank's part of the global batch of `batch.step`.
            stop: this rank was asked to stop; the others learn it with the numbers of this step.

        Raises:
            Diverged: a loss is not finite; nothing was changed. The rows are listed.
        """
        torch.manual_seed(key("torch", self._recipe.seed, batch.step, self.ranks.rank) >> 1)
        set_lr(self.optimizer, float(self._rates[batch.step]))
        numbers, stop_all = self._numbers(batch, self._backward(batch), stop=stop)
        clip = self._recipe.optim.clip_norm or float("inf")
        norms = HostCopy(clip_per_tensor(self._parameters, clip))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(numbers=numbers, stop=stop_all, gradient_norms=norms)

    def _backward(self, batch: Batch) -> "list[_Copies]":
        """Forward and backward of all micro-batches; what the log needs is copied while backward runs."""
        recipe, device = self._recipe, self.ranks.device
        groups = self.sampler.draw(batch.step).group
        everyone = self._table[:, groups]  # (T, B)
        draws = drop_draws(seed=recipe.seed, step=batch.step, images=len(groups), teachers=len(everyone))  # (B, T - 1)
        mine = batch.picks.slot
        per_rank = recipe.sharing.normalise == "per_rank"
        counted = mine if per_rank else slice(None)
        drop = recipe.sharing.drop_probability
        count = kept_count(everyone[:, counted], draws[counted], drop_probability=drop)
        scale = 1 if per_rank else self.ranks.world  # DDP averages over the ranks
        norms = self._norms_of(batch)
        eligible, chance = _sent(everyone[:, mine], device), _sent(draws[mine], device)
        copies = []
        parts = list(_micro_batches(len(batch.picks), recipe.optim.micro_batches))
        for part in parts:
            with self._reducing(part is parts[-1]):
                found = self._forward(batch, part, norms)
                per_image = torch.stack([one.per_image for one in found.values()])  # (T, m)
                keep = keep_mask(per_image.detach(), eligible[:, part], chance[part], drop_probability=drop)
                loss = combine(per_image, coefficients(keep, count=count))
                sums = torch.cat([loss.detach()[None], keep.sum(dim=1)])
                copies.append(_Copies(table=HostCopy(_table_of(found)), sums=HostCopy(sums)))
                torch.autograd.backward(loss * scale)
        return copies

    def _forward(self, batch: Batch, part: slice, norms: Mapping[str, TeacherNorm]) -> dict[str, TeacherLoss]:
        pixels = batch.pixels[part]
        if self._recipe.data.augment == "photometric":
            numbers = augment.parameters(seed=self._recipe.seed, step=batch.step, images=self._recipe.data.batch)
            pixels = augment.photometric(pixels, _sent(numbers[batch.picks.slot[part]], pixels.device))
        with arithmetic(self._recipe, pixels):
            predicted = self._model(normalise(pixels))
        return {
            name: teacher_loss(predicted[name], batch.tokens[name][part], norm=norms[name], weights=self._weights)
            for name in batch.tokens
        }

    def _norms_of(self, batch: Batch) -> dict[str, TeacherNorm]:
        if self._recipe.targets.norm == "exact":
            return {name: self.norms.stored(name) for name in batch.tokens}
        momentum = float(self._momenta[batch.step])
        gather = self.ranks.gather if self.ranks.world > 1 else None
        return {
            name: self.norms.update(name, [tokens], momentum=momentum, gather=gather)
            for name, tokens in batch.tokens.items()
        }

    def _reducing(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between ranks with the last micro-batch."""
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return nullcontext()

    def _numbers(self, batch: Batch, copies: "list[_Copies]", *, stop: bool) -> tuple[dict[str, Any], bool]:
        """Turn this rank's copies into numbers over all ranks, in one exchange; refuse what is not finite."""
        teachers = list(batch.tokens)
        table = np.concatenate([copy.table.numpy() for copy in copies], axis=1).astype(np.float64)
        loss_and_kept = np.sum([copy.sums.numpy() for copy in copies], axis=0, dtype=np.float64)  # (1 + T,)
        read = np.repeat(batch.read, _terms_per_teacher(self.distiller), axis=0)
        bad = np.flatnonzero(~np.isfinite(table[: len(teachers)]).all(axis=0))  # images of this rank
        rows = np.concatenate([batch.read, read])
        sums, seen = np.where(rows, table, 0.0).sum(axis=1), rows.sum(axis=1)
        mine = np.concatenate([[len(bad), stop], np.nan_to_num(loss_and_kept), sums, seen])
        total = self.ranks.total(torch.from_numpy(mine)).numpy()
        if total[0]:
            self._refuse(batch, bad)
        kept, rest = total[3 : 3 + len(teachers)], total[3 + len(teachers) :]
        means = [float(value / number) if number else None for value, number in zip(*np.split(rest, 2), strict=True)]
        share = 1 / self.ranks.world if self._recipe.sharing.normalise == "per_rank" else 1.0
        numbers = {
            "step": batch.step + 1,
            "loss": float(total[2] * share),
            "loss_per_teacher": dict(zip(teachers, means[: len(teachers)], strict=True)),
            "kept": {name: float(n / self._recipe.data.batch) for name, n in zip(teachers, kept, strict=True)},
            "terms": _named_terms(self.distiller, means[len(teachers) :]),
            "lr": float(self._rates[batch.step]),
        }
        return numbers, bool(total[1])

    def _refuse(self, batch: Batch, bad: Int64) -> None:
        places = [
            f"{self._mixture.sources[source].dataset.name}/{row}"
            for source, row in zip(batch.picks.source[bad], batch.picks.row[bad], strict=True)
        ]
        everywhere = [place for places_of_rank in self.ranks.collect(places) for place in places_of_rank]
        shown = ", ".join(everywhere[:20]) + (", ..." if len(everywhere) > 20 else "")
        raise Diverged(
            f"step {batch.step + 1}: the loss is not finite for {len(everywhere)} of {self._recipe.data.batch} images "
            f"(dataset/row: {shown}); nothing was changed. Look at them with: codistill store show CACHE DATASET ROW. "
            "If they are all right, lower optim.lr or use --optim.precision fp32"
        )


@contextmanager
def arithmetic(recipe: Recipe, pixels: Tensor) -> Iterator[None]:
    """What the forward pass of the student on `pixels` (B, H, W, 3) is computed with.

    Autocast as the recipe says. On the CPU torch's fused bf16 attention takes 2.7 times as long as the plain formula
    with 65 tokens, and less than half as long with 577 (forward and backward, measured), so short ones get the latter.
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


def _sent(values: "np.ndarray[Any, np.dtype[Any]]", device: torch.device) -> Tensor:
    """Copy a small array to the device without waiting for what the device is doing."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _wrapped(distiller: Distiller, *, recipe: Recipe, ranks: Ranks) -> Any:
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


def _table_of(found: Mapping[str, TeacherLoss]) -> Tensor:
    """Losses of all teachers, then their terms: (T + sum of terms, m)."""
    terms = [term for one in found.values() for term in one.terms.values()]
    return torch.stack([*(one.per_image.detach() for one in found.values()), *terms])


def term_names(distiller: Distiller) -> dict[str, list[str]]:
    """Names of the terms of each teacher, in the order of `teacher_loss`."""
    return {
        name: [
            f"{kind}_{term}"
            for kind in (("cls", "patch") if spec.prefix_tokens else ("patch",))
            for term in ("cosine", "smooth_l1")
        ]
        for name, spec in distiller.teachers.items()
    }


def _terms_per_teacher(distiller: Distiller) -> list[int]:
    return [len(names) for names in term_names(distiller).values()]


def _named_terms(distiller: Distiller, values: list[float | None]) -> dict[str, dict[str, float | None]]:
    rest = iter(values)
    return {name: {term: next(rest) for term in terms} for name, terms in term_names(distiller).items()}
