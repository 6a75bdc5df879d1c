"""Colour changes of the student's input alone, so that it must match teachers that saw the original colours.

Not part of DUNE, whose colour changes are in the stored pixels: teachers and student see the same ones.
Shapes: B images, H W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from store.common.stateless_random import key, uniforms

BRIGHTNESS, CONTRAST, SATURATION, GREY_PROBABILITY = 0.4, 0.4, 0.2, 0.2
LUMA = (0.299, 0.587, 0.114)
NUMBERS_PER_IMAGE = 4


def sample_parameters(*, seed: int, step: int, images: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Sample brightness, contrast and saturation factors and the grey flag of each image of the global batch.

    Args:
        seed: seed of the run.
        step: number of the step, from 0.
        images: size of the global batch; a rank or a micro-batch takes its own rows.

    Returns:
        float32 (images, 4), a pure function of the arguments.
    """
    numbers = uniforms(key("augment", seed, step), images * NUMBERS_PER_IMAGE).reshape(images, NUMBERS_PER_IMAGE)
    strength = np.array([BRIGHTNESS, CONTRAST, SATURATION])
    factors = 1 + strength * (2 * numbers[:, :3] - 1)
    grey = numbers[:, 3:] < GREY_PROBABILITY
    return np.concatenate([factors, grey], axis=1).astype(np.float32)


def photometric(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Change the colours of a batch.

    Args:
        pixels: uint8 (B, H, W, 3).
        numbers: float32 (B, 4) from `sample_parameters`, on the same device.

    Returns:
        uint8 (B, H, W, 3).
    """
    brightness, contrast, saturation, grey = (column.view(-1, 1, 1, 1) for column in numbers.unbind(1))
    image = pixels.float() * brightness
    # `full`, not `tensor`: copying numbers to a GPU waits for all of its unfinished work
    weights = torch.cat([torch.full((1,), share, device=pixels.device) for share in LUMA])
    luma = (image * weights).sum(dim=-1, keepdim=True)
    centre = luma.mean(dim=(1, 2, 3), keepdim=True)
    image = centre + (image - centre) * contrast
    luma = centre + (luma - centre) * contrast
    image = luma + (image - luma) * saturation * (1 - grey)
    return image.round_().clamp_(0, 255).to(torch.uint8)
