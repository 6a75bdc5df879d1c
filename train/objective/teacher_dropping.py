"""Which images teach through which teachers: data sharing, teacher dropping, and the coefficients of the loss.

Shapes: B images, T teachers (always sorted by name), G groups.
"""

import numpy as np
import torch
from torch import Tensor

from train.data.teacher_sharing import Bool
from train.stateless_random import Float64, key, uniforms


def drop_draws(*, seed: int, step: int, images: int, teachers: int) -> Float64:
    """Draw the uniforms that decide which teachers are dropped, as a pure function of (seed, step, image slot).

    Args:
        seed: of the run.
        step: optimiser step, from 0.
        images: size of the **global** batch; a rank or a micro-batch takes the rows of its slots.
        teachers: T.

    Returns:
        float64 (images, T - 1) in [0, 1): one per teacher that is not the image's worst, in sorted order.
    """
    columns = max(0, teachers - 1)
    return uniforms(key("drop", seed, step), images * columns).reshape(images, columns)


@torch.no_grad()
def keep_mask(losses: Tensor, eligible: Tensor, draws: Tensor, *, drop_probability: float) -> Tensor:
    """Choose the teachers that each image learns from in this step.

    The eligible teacher with the highest loss is always kept, every other one is dropped if its draw is below the
    probability (released as `lowest_loss`); probability 0 keeps all. The draws of an image go to its eligible
    teachers other than the highest, in sorted order, so how many are kept does not depend on the losses.

    Args:
        losses: (T, B).
        eligible: bool (T, B).
        draws: (B, T - 1) from `drop_draws`, on the same device.
        drop_probability: in [0, 1].

    Returns:
        bool (T, B).
    """
    highest = losses.masked_fill(~eligible, -torch.inf).argmax(dim=0, keepdim=True)  # (1, B)
    is_highest = torch.zeros_like(eligible).scatter_(0, highest, True)
    others = eligible & ~is_highest
    if draws.shape[1] == 0:
        return eligible.clone()
    position = (others.cumsum(dim=0) - 1).clamp_(min=0)  # (T, B): which draw is whose
    mine = draws.T.gather(0, position.clamp_(max=draws.shape[1] - 1))
    return (eligible & is_highest) | (others & (mine >= drop_probability))


def kept_count(eligible: Bool, draws: Float64, *, drop_probability: float) -> int:
    """Return how many ones `keep_mask` has, without the losses.

    Called on the global batch, which every rank knows, it gives the exact normaliser with no communication, also
    under gradient accumulation; called on a rank's own images, the released one.

    Args:
        eligible: (T, B).
        draws: (B, T - 1).
        drop_probability: in [0, 1].
    """
    available = eligible.sum(axis=0)  # (B,)
    used = np.arange(draws.shape[1]) < available[:, None] - 1
    return int((used & (draws >= drop_probability)).sum() + (available > 0).sum())


def coefficients(keep: Tensor, *, count: int | Tensor) -> Tensor:
    """Return the loss coefficients (T, B): the mask divided by the number of ones over teachers and images."""
    return keep.float() / count
