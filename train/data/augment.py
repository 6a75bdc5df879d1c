"""Colour changes for the student's input alone: it then has to match teachers that saw the original colours.

Not part of DUNE, whose photometric changes are in the stored pixels and seen by teachers and student alike.
Shapes: B images, H W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from train.stateless_random import key, uniforms

BRIGHTNESS, CONTRAST, SATURATION, GREY_PROBABILITY = 0.4, 0.4, 0.2, 0.2
LUMA = (0.299, 0.587, 0.114)
_NUMBERS = 4


def parameters(*, seed: int, step: int, images: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Brightness, contrast and saturation factors and the grey flag of each image of the global batch.

    Args:
        seed: of the run.
        step: from 0.
        images: size of the global batch; a rank or a micro-batch takes its own rows.

    Returns:
        float32 (images, 4), a pure function of the arguments.
    """
    drawn = uniforms(key("augment", seed, step), images * _NUMBERS).reshape(images, _NUMBERS)
    strength = np.array([BRIGHTNESS, CONTRAST, SATURATION])
    factors = 1 + strength * (2 * drawn[:, :3] - 1)
    grey = drawn[:, 3:] < GREY_PROBABILITY
    return np.concatenate([factors, grey], axis=1).astype(np.float32)


def photometric(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Change the colours of a batch.

    Args:
        pixels: uint8 (B, H, W, 3).
        numbers: float32 (B, 4) of `parameters`, on the same device.

    Returns:
        uint8 (B, H, W, 3).
    """
    brightness, contrast, saturation, grey = (column.view(-1, 1, 1, 1) for column in numbers.unbind(1))
    image = pixels.float() * brightness
    # filled, not sent: numbers copied to a GPU wait for everything that it has still to do
    weights = torch.cat([torch.full((1,), share, device=pixels.device) for share in LUMA])
    luma = (image * weights).sum(dim=-1, keepdim=True)
    centre = luma.mean(dim=(1, 2, 3), keepdim=True)
    image = centre + (image - centre) * contrast
    luma = centre + (luma - centre) * contrast
    image = luma + (image - luma) * saturation * (1 - grey)
    return image.round_().clamp_(0, 255).to(torch.uint8)
