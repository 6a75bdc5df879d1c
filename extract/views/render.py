"""Render a view: from an image and parameters to stored pixels, by torchvision's operations in the recipe's order."""

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from extract.views.parameters import LONGEST_CENTER_RATIO, Photometric, ViewParameters, center_offset, short_side_size
from store.errors import DecodeError

BLUR_KERNEL = 9
SOLARIZE_THRESHOLD = 0.5


def render(image: np.ndarray, parameters: ViewParameters, *, image_size: int) -> np.ndarray:
    """Render one view of an image.

    Args:
        image: uint8 (height, width, 3), upright.
        parameters: parameters of the view.
        image_size: side of the result, px.

    Returns:
        uint8 (image_size, image_size, 3).

    Raises:
        DecodeError: the image is too elongated for a central view.
    """
    image_tensor = torch.from_numpy(image).permute(2, 0, 1)
    if parameters.center:
        view = _central(image_tensor, image_size)
    else:
        rows = slice(parameters.top, parameters.top + parameters.height)
        columns = slice(parameters.left, parameters.left + parameters.width)
        view = resized(image_tensor[:, rows, columns], height=image_size, width=image_size)
    if parameters.flip:
        view = functional.horizontal_flip(view)
    return _coloured(view, parameters.photometric).permute(1, 2, 0).contiguous().numpy()


def resized(image: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Resize an image (3, H, W) to another size in px: bicubic, antialiased."""
    size = [height, width]
    resized: torch.Tensor = functional.resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized


def _central(whole: torch.Tensor, image_size: int) -> torch.Tensor:
    _, height, width = whole.shape
    if max(height, width) > LONGEST_CENTER_RATIO * min(height, width):
        raise DecodeError("too elongated", f"{width} x {height} px, central views reach 1 : {LONGEST_CENTER_RATIO}")
    new_width, new_height = short_side_size(image_size, width=width, height=height)
    whole = resized(whole, height=new_height, width=new_width)
    top, left = center_offset(image_size, width=new_width, height=new_height)
    return whole[:, top : top + image_size, left : left + image_size]


def _coloured(view: torch.Tensor, photometric: Photometric) -> torch.Tensor:
    """Jitter and greyscale on uint8, blur and solarisation on float in [0, 1], then to the nearest uint8."""
    steps = {
        "b": (functional.adjust_brightness, photometric.brightness),
        "c": (functional.adjust_contrast, photometric.contrast),
        "s": (functional.adjust_saturation, photometric.saturation),
        "h": (functional.adjust_hue, photometric.hue),
    }
    for letter in photometric.jitter_order or "":
        adjust, amount = steps[letter]
        view = adjust(view, amount)
    if photometric.grayscale:
        view = functional.rgb_to_grayscale(view, num_output_channels=3)
    if photometric.blur_sigma is None and not photometric.solarize:
        return view
    floats: torch.Tensor = functional.to_dtype(view, torch.float32, scale=True)
    if photometric.blur_sigma is not None:
        floats = functional.gaussian_blur(floats, [BLUR_KERNEL] * 2, [photometric.blur_sigma] * 2)
    if photometric.solarize:
        floats = functional.solarize(floats, threshold=SOLARIZE_THRESHOLD)
    return (floats * 255).round().clamp(0, 255).to(torch.uint8)
