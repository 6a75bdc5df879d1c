"""Crops of the depth probe: augmented training crops of NYUd.

A training crop is a pure function of the image and the random generator. Shapes: H W pixels. Source: the depth
protocol of DINOv2 (BTS and AdaBins augmentation).
"""

import numpy as np
from PIL import Image

from eval.probes.settings import DepthCropSettings
from store.errors import InvalidInput


def training_crop(
    image: np.ndarray, depth_mm: np.ndarray, settings: DepthCropSettings, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample one augmented crop.

    Args:
        image: uint8 (H, W, 3).
        depth_mm: uint16 (H, W), 0 where unknown.
        settings: sizes and ranges.
        generator: random generator.

    Returns:
        uint8 (crop height, crop width, 3) and uint16 (crop height, crop width).

    Raises:
        InvalidInput: the image is smaller than a crop.
    """
    top, bottom, left, right = settings.border
    if any(settings.border):
        image, depth_mm = image[top:bottom, left:right], depth_mm[top:bottom, left:right]
    if image.shape[0] < settings.crop_height or image.shape[1] < settings.crop_width:
        size = f"{image.shape[1]} x {image.shape[0]} px inside the border"
        raise InvalidInput(f"{size}, expected at least {settings.crop_width} x {settings.crop_height}")
    if generator.random() < 0.5:
        image, depth_mm = rotate(image, depth_mm, generator.uniform(-settings.rotation_deg, settings.rotation_deg))
    if generator.random() < 0.5:
        image, depth_mm = image[:, ::-1], depth_mm[:, ::-1]
    y = int(generator.integers(0, image.shape[0] - settings.crop_height + 1))
    x = int(generator.integers(0, image.shape[1] - settings.crop_width + 1))
    part = np.s_[y : y + settings.crop_height, x : x + settings.crop_width]
    image, depth_mm = image[part], depth_mm[part]
    if generator.random() < 0.5:
        image = recolour(image, settings, generator)
    return np.ascontiguousarray(image), np.ascontiguousarray(depth_mm)


def rotate(image: np.ndarray, depth_mm: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotate about the centre, counter-clockwise: image bilinear, depth nearest, both 0 outside the original."""
    rotated = Image.fromarray(np.ascontiguousarray(image)).rotate(degrees, Image.Resampling.BILINEAR)
    # PIL rotates its 32-bit mode by nearest neighbour without loss; 16-bit images it may clip.
    depth = Image.fromarray(depth_mm.astype(np.int32)).rotate(degrees, Image.Resampling.NEAREST)
    return np.array(rotated), np.array(depth).astype(np.uint16)


def recolour(image: np.ndarray, settings: DepthCropSettings, generator: np.random.Generator) -> np.ndarray:
    """Change gamma, brightness and the balance of the channels of uint8 (H, W, 3)."""
    gamma = 1 + generator.uniform(-settings.gamma, settings.gamma)
    factor = 1 + generator.uniform(-settings.brightness, settings.brightness)
    balance = 1 + generator.uniform(-settings.colour, settings.colour, size=3)
    scaled = (image / np.float32(255)) ** gamma * factor * balance
    return np.asarray(np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8))
