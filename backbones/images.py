"""Normalise stored pixels for a network. Shapes: B batch, H W pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from store.errors import InvalidInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(pixels: Tensor, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Turn stored pixels into a normalised image batch: `(pixels / 255 - mean) / std` in float32.

    Args:
        pixels: uint8 (B, H, W, 3), RGB, as a cache stores them.
        mean: per-channel mean of values in [0, 1].
        std: per-channel standard deviation of values in [0, 1].

    Returns:
        float32 (B, 3, H, W) on the device of `pixels`, contiguous.

    Raises:
        InvalidInput: another dtype or shape, which would otherwise become a plausible but wrong image.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise InvalidInput(
            f"pixels: expected torch.uint8 of shape (batch, height, width, 3), found {pixels.dtype} of shape "
            f"{tuple(pixels.shape)}. Give pixels as the cache stores them"
        )
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return standardise_(images.div_(255), mean=mean, std=std)


def standardise_(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract a mean and divide by a standard deviation per channel, in place; (B, 3, H, W) -> the same tensor.

    The constants are passed as numbers: a tensor made here would stop the GPU's queue for its copy.
    """
    for channel, (shift, scale) in enumerate(zip(mean, std, strict=True)):
        images[:, channel].sub_(shift).div_(scale)
    return images
