"""Training of probe heads: the loop, the order of items, learning-rate factors. Steps are counted from 0."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from eval.probes.feature_store import Progress
from eval.probes.settings import DepthSettings, SegmentationSettings
from store.errors import JobFailed

Head = TypeVar("Head", bound=nn.Module)


def fit(
    build: Callable[[], Head],
    loss_of: Callable[[Head, int, np.ndarray], Tensor],
    *,
    learning_rate: Callable[[int], float],
    settings: SegmentationSettings | DepthSettings,
    items: int,
    device: torch.device,
    clip: float | None = None,
    progress: Progress = iter,
) -> tuple[Head, float]:
    """Train a head with AdamW.

    Args:
        build: function that builds the head; its random initialisation depends on the seed alone.
        loss_of: function of the head, the step and the indices of the step's items that returns the loss, a scalar.
        learning_rate: function of the step.
        settings: iterations, batch, weight decay and seed.
        items: number of items.
        device: device to train on.
        clip: largest norm of the gradient; None does not clip.
        progress: wrapper of the steps that shows progress.

    Returns:
        The head in evaluation mode, and the mean loss of the last tenth of the steps.

    Raises:
        JobFailed: a loss that is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        head = build().to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    order = batches(items, batch=settings.batch, iterations=settings.iterations, seed=settings.seed)
    losses: list[Tensor] = []
    for step, chosen in zip(progress(range(settings.iterations)), order, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss = loss_of(head, step, chosen)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(head.parameters(), clip)
        optimizer.step()
        losses.append(loss.detach())
    return head.eval(), tail_mean(losses)


def batches(items: int, *, batch: int, iterations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the indices of each iteration's batch, int64 (batch,): permutations of all items, one after the other."""
    order = np.empty(0, dtype=np.int64)
    epoch = 0
    for _ in range(iterations):
        while len(order) < batch:
            order = np.concatenate([order, np.random.default_rng([seed, epoch]).permutation(items)])
            epoch += 1
        yield order[:batch]
        order = order[batch:]


def warm_up(step: int, *, steps: int, start: float) -> float:
    """Return a factor that rises linearly from `start` at step 0 to 1 at step `steps`."""
    return 1.0 if step >= steps else 1.0 - (1.0 - step / steps) * (1.0 - start)


def linear_decay(step: int, *, iterations: int) -> float:
    """Return a factor that falls linearly from 1 at step 0 to 0 at step `iterations`."""
    return 1.0 - step / iterations


def cosine_decay(step: int, *, iterations: int, end: float) -> float:
    """Return a factor that falls along half a cosine from 1 at step 0 to `end` at step `iterations`."""
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * step / iterations))


def tail_mean(losses: Sequence[Tensor]) -> float:
    """Return the mean of the last tenth of the losses; NaN of none.

    Raises:
        JobFailed: a loss that is not finite, so the head is useless.
    """
    if not losses:
        return math.nan
    values = torch.stack([loss.detach() for loss in losses]).double().cpu()
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        raise JobFailed(f"probe: the loss of step {int(bad[0])} is not finite. Pass a smaller --lr")
    return float(values[-max(1, len(values) // 10) :].mean())
