"""Teacher dropping: the teachers that each image learns from in a step, and the coefficients of the loss.

Shapes: B images, T teachers (always sorted by name).
"""

import numpy as np
import torch
from torch import Tensor

from store.common import stateless_random
from store.common.stateless_random import Float64, key
from train.data.teacher_sharing import Bool


def sample_drop_uniforms(*, seed: int, step: int, images: int, teachers: int) -> Float64:
    """Sample the uniform numbers that decide on dropping, as a pure function of (seed, step, image slot).

    Args:
        seed: seed of the run.
        step: optimizer step, from 0.
        images: size of the **global** batch; a rank or a micro-batch takes the rows of its slots.
        teachers: number of teachers T.

    Returns:
        float64 (images, T - 1) in [0, 1): one for each teacher but the image's worst, in sorted order.
    """
    columns = max(0, teachers - 1)
    return stateless_random.uniforms(key("drop", seed, step), images * columns).reshape(images, columns)


@torch.no_grad()
def keep_mask(losses: Tensor, eligible: Tensor, uniforms: Tensor, *, drop_probability: float) -> Tensor:
    """Choose the teachers that each image learns from in this step.

    The eligible teacher with the highest loss is always kept; every other one is dropped if its number is below the
    probability (released as `lowest_loss`); probability 0 keeps all. The numbers of an image belong to its eligible
    teachers other than the highest, in sorted order, so that the count of kept teachers does not depend on the losses.

    Args:
        losses: (T, B).
        eligible: bool (T, B), teachers that each image may learn from.
        uniforms: (B, T - 1) from `sample_drop_uniforms`, on the same device.
        drop_probability: probability in [0, 1] that a teacher is dropped.

    Returns:
        bool (T, B).
    """
    highest = losses.masked_fill(~eligible, -torch.inf).argmax(dim=0, keepdim=True)  # (1, B)
    is_highest = torch.zeros_like(eligible).scatter_(0, highest, True)
    others = eligible & ~is_highest
    if uniforms.shape[1] == 0:
        return eligible.clone()
    column = (others.cumsum(dim=0) - 1).clamp_(min=0, max=uniforms.shape[1] - 1)  # (T, B): of `uniforms`
    of_teacher = uniforms.T.gather(0, column)  # (T, B)
    return (eligible & is_highest) | (others & (of_teacher >= drop_probability))


def kept_count(eligible: Bool, uniforms: Float64, *, drop_probability: float) -> int:
    """Return how many ones `keep_mask` has, without the losses.

    On the global batch, which every rank knows, it gives the exact normaliser without communication, also under
    gradient accumulation; on a rank's own images it gives the released one.

    Args:
        eligible: bool (T, B), teachers that each image may learn from.
        uniforms: (B, T - 1) from `sample_drop_uniforms`.
        drop_probability: probability in [0, 1] that a teacher is dropped.
    """
    available = eligible.sum(axis=0)  # (B,)
    used = np.arange(uniforms.shape[1]) < available[:, None] - 1
    return int((used & (uniforms >= drop_probability)).sum() + (available > 0).sum())


def coefficients(keep: Tensor, *, count: int | Tensor) -> Tensor:
    """Return the loss coefficients (T, B): the mask divided by the number of ones over teachers and images."""
    return keep.float() / count
