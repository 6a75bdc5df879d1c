"""Learning rates of every step, and the norm of a gradient."""

import numpy as np
import torch
from torch import Tensor, nn

from store.common.stateless_random import Float64
from train.optim import cosine


def warmup_then_cosine(*, peak: float, minimum: float, steps: int, warmup_steps: int) -> Float64:
    """Return a linear rise from 0, which reaches the peak where a half cosine towards `minimum` begins; (steps,).

    Source: MASt3R's trainer, which sets the rate every iteration.
    """
    rising = peak * np.arange(warmup_steps) / max(1, warmup_steps)
    return np.concatenate([rising, cosine(start=peak, end=minimum, steps=steps - warmup_steps)])


def gradient_norm(module: nn.Module) -> Tensor:
    """Return the norm of all gradients of a module together."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm: Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
    return norm
