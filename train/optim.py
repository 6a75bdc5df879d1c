"""The optimizer and its schedules: AdamW, gradient clipping, and learning rate and momentum of every step."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from store.common.stateless_random import Float64
from store.errors import InvalidInput

REFERENCE_BATCH = 256  # images that a recipe's learning rate is given for
NORM_EPS = 1e-6  # added to a norm before dividing by it


def decays(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: to tensors of two or more dimensions that are not biases.

    CLS, registers and the position embedding have three dimensions, so they decay, as in the released code.
    """
    return parameter.ndim >= 2 and not name.endswith("bias")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not, in the model's order."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]


def adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-15,
    weight_decay: float = 0.03,
    fused: bool = True,
) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters.

    Args:
        model: model whose parameters are on their device already.
        lr: learning rate of the first step; `set_lr` changes it every step.
        betas: decay rates of the two moments.
        eps: number added to the root of the second moment.
        weight_decay: decay of the tensors that `decays` names.
        fused: use one kernel per step instead of many.
    """
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group for the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def clip_per_tensor(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale each gradient tensor down to a norm of at most `max_norm`, tensor by tensor and not all together.

    Nothing is copied to the host; parameters without a gradient are skipped.

    Args:
        parameters: parameters whose `.grad` is clipped in place.
        max_norm: largest Euclidean norm of a tensor afterwards.

    Returns:
        float32 (number of gradients,): the norms before clipping, in the order of `parameters`.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(0)
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (max_norm / (norms + NORM_EPS)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms


def peak_rate(rate: float, *, batch: int) -> float:
    """Scale a learning rate, given per 256 images, to the global batch."""
    return rate * batch / REFERENCE_BATCH


def cosine(*, start: float, end: float, steps: int) -> Float64:
    """Return a half cosine from `start` towards `end`, which it never reaches: point i of n is at pi * i / n."""
    values: Float64 = end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(steps) / max(1, steps)))
    return values


def learning_rate(*, peak: float, steps: int, warmup: float = 0.2, minimum: float = 1e-6) -> Float64:
    """Return the learning rate of every step: linear warm-up, then cosine.

    The warm-up has floor(warmup * steps) points with both ends: step 0 has rate 0 (its update changes nothing), its
    last point is the peak, and the cosine starts at the peak again.

    Args:
        peak: highest rate, already scaled to the batch.
        steps: number of steps of the run.
        warmup: share of the steps that warm up, in [0, 1].
        minimum: rate that the cosine falls towards; not scaled with the batch.

    Returns:
        float64 (steps,).
    """
    if not 0 <= warmup <= 1:
        raise InvalidInput(f"warmup {warmup}: expected a fraction of the steps from 0 to 1")
    warmup_steps = int(warmup * steps)
    rising = np.linspace(0, peak, warmup_steps)
    return np.concatenate([rising, cosine(start=peak, end=minimum, steps=steps - warmup_steps)])


def ema_momentum(*, steps: int, start: float = 1.0, end: float = 1e-3) -> Float64:
    """Return the momentum of the target statistics at every step: cosine, no warm-up (step 0 overwrites them)."""
    return cosine(start=start, end=end, steps=steps)
