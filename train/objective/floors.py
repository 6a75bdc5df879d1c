"""Losses against true tokens, estimated from losses against decoded ones, whose noise no student can predict.

The floor of a code is the mean distance between decoded and true tokens, measured when the codes were written. It is
not simply part of the loss: independent noise multiplies cosines, and smooth-L1 is linear for large errors, so a
student that is far off does not pay all of it.

Shapes: B images, S sources, T teachers (sorted).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from train.data.mixture import Source
from train.objective.losses import TeacherLoss
from train.recipe.config import Loss

KINDS = ("cls", "patch")  # of a teacher's terms; the store calls them prefix and patch, in this order
LEAST_SIGNAL = 1e-2  # of a mean cosine between decoded and true tokens: where it is less, cosines say nothing

Float32 = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def floors_of(sources: Sequence[Source], teachers: Sequence[str]) -> Float32:
    """Return the floors of the codes that are read, as they were sealed.

    Args:
        sources: sources of a loader.
        teachers: names of the T teachers.

    Returns:
        float32 (S, T, 2, 2): by source, teacher and token type (prefix, patch), the means of 1 - cosine and of
        smooth-L1 between decoded and true tokens; zeros where the targets are the true tokens, or there is none.
    """
    floors = np.zeros((len(sources), len(teachers), len(KINDS), 2), np.float32)
    for number, source in enumerate(sources):
        for name in source.codes(teachers):
            distortion = source.dataset.distortion(name)
            floors[number, teachers.index(name)] = [distortion.floors("prefix"), distortion.floors("patch")]
    return np.nan_to_num(floors, nan=0.0)


@torch.no_grad()
def corrected(loss: TeacherLoss, floors: Tensor, *, weights: Loss) -> Tensor:
    """Estimate the loss of each image against the teacher's true tokens.

    With c and s the mean cosine distance and smooth-L1 to decoded tokens, F_c and F_s their floors and
    h(x) = (1 + x)**2 - 1, they are (c - F_c) / (1 - F_c) and sqrt(max(1, 1 + h(s) - h(F_s))) - 1. Teachers' losses may
    be compared only so: codes differ in their noise.

    Args:
        loss: loss against decoded tokens.
        floors: float32 (B, 2, 2) from `floors_of`: token type, then cosine and smooth-L1.
        weights: weights of the two distances.

    Returns:
        (B,); of images without a floor, the loss as it is. Cosines of decoded tokens that have nothing to do with the
        true ones, as those of constant tokens, stay as they are too.
    """
    per_type = []
    for number, kind in enumerate(KINDS):
        if f"{kind}_smooth_l1" not in loss.terms:
            continue
        cosine, smooth_l1 = loss.terms[f"{kind}_cosine_loss"], loss.terms[f"{kind}_smooth_l1"]
        cosine_floor, smooth_l1_floor = floors[:, number].unbind(1)
        signal = 1 - cosine_floor
        true_cosine = torch.where(
            signal < LEAST_SIGNAL, cosine, (cosine - cosine_floor) / signal.clamp(min=LEAST_SIGNAL)
        )
        squared = (1 + smooth_l1).square() - (1 + smooth_l1_floor).square() + 1
        per_type.append(weights.cosine * true_cosine + weights.smooth_l1 * (squared.clamp(min=1).sqrt() - 1))
    estimate = torch.stack(per_type).mean(dim=0)
    return torch.where(floors.flatten(1).any(dim=1), estimate, loss.per_image.detach())
