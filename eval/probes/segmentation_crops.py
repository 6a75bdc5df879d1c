"""Crops of the segmentation probe: augmented crops of training images, and sliding windows of test images.

A training crop is a pure function of (seed, image, view). Shapes: H W pixels, c side of a crop, M windows.
Source: the linear segmentation protocol of DINOv2. We resize with PIL's bilinear filter, which antialiases.
"""

import numpy as np
from PIL import Image

from eval.encoders.open_encoder import PAD_RGB
from eval.probes.datasets import IGNORED
from eval.probes.settings import CropSettings

MAX_RETRIES = 10


def training_crop(
    image: np.ndarray, labels: np.ndarray, settings: CropSettings, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample one augmented crop.

    Args:
        image: uint8 (H, W, 3).
        labels: uint8 (H, W), 255 ignored.
        settings: sizes and limits.
        generator: random generator.

    Returns:
        uint8 (c, c, 3), the mean colour where the image ends, and uint8 (c, c), 255 there.
    """
    factor = generator.uniform(settings.min_factor, settings.max_factor)
    short, cap = settings.short_side * factor, settings.long_cap * factor
    size = fitted_size(image.shape[0], image.shape[1], short_side=short, long_cap=cap)
    image, labels = resize_image(image, size), resize_labels(labels, size)
    crop = min(settings.crop, size[0]), min(settings.crop, size[1])
    for retry in range(MAX_RETRIES + 1):
        top, left = (int(generator.integers(0, full - part + 1)) for full, part in zip(size, crop, strict=True))
        part = labels[top : top + crop[0], left : left + crop[1]]
        if retry == MAX_RETRIES or _is_varied(part, settings.max_share):
            break
    image = image[top : top + crop[0], left : left + crop[1]]
    if generator.random() < 0.5:
        image, part = image[:, ::-1], part[:, ::-1]
    image = distort(np.ascontiguousarray(image), generator)
    return pad_to(image, settings.crop), pad_to(part, settings.crop)


def fitted_size(height: int, width: int, *, short_side: float, long_cap: float) -> tuple[int, int]:
    """Return (height, width) of the same aspect ratio: the short side at `short_side`, the long one at most its cap."""
    scale = min(long_cap / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def windows(height: int, width: int, settings: CropSettings) -> list[tuple[int, int]]:
    """List (top, left) of the windows over an image of at least one window; the last ones end at the border."""

    def starts(length: int) -> list[int]:
        count = max(length - settings.crop + settings.stride - 1, 0) // settings.stride + 1
        return [min(index * settings.stride, length - settings.crop) for index in range(count)]

    return [(top, left) for top in starts(height) for left in starts(width)]


def cut_windows(image: np.ndarray, settings: CropSettings) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize a test image and cut it into windows.

    Returns:
        uint8 (M, c, c, 3) in the order of `windows` and the resized image's (height, width). An image that is smaller
        than a window is padded at the right and at the bottom.
    """
    size = fitted_size(image.shape[0], image.shape[1], short_side=settings.short_side, long_cap=settings.long_cap)
    resized = pad_to(resize_image(image, size), settings.crop)
    corners = windows(resized.shape[0], resized.shape[1], settings)
    return np.stack([resized[y : y + settings.crop, x : x + settings.crop] for y, x in corners]), size


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (H, W, 3) to (height, width), bilinear."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) labels to (height, width) by nearest neighbour."""
    return np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def distort(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Distort the colours of uint8 (H, W, 3), by each of these with probability 0.5.

    Brightness +-32; contrast x 0.5-1.5 either before or after saturation x 0.5-1.5 and hue +-36 degrees.
    """

    def coin() -> bool:
        return bool(generator.random() < 0.5)

    if coin():
        image = _scaled(image, shift=generator.uniform(-32, 32))
    contrast_last = coin()
    if not contrast_last and coin():
        image = _scaled(image, factor=generator.uniform(0.5, 1.5))
    saturation = generator.uniform(0.5, 1.5) if coin() else 1.0
    hue = generator.uniform(-18, 18) / 180 * 256 if coin() else 0.0  # 180 steps a turn -> PIL's 256
    if saturation != 1.0 or hue:
        image = _recoloured(image, saturation=saturation, hue=hue)
    if contrast_last and coin():
        image = _scaled(image, factor=generator.uniform(0.5, 1.5))
    return image


def pad_to(image: np.ndarray, side: int) -> np.ndarray:
    """Pad (H, W) labels with 255 or (H, W, 3) pixels with the mean colour, at the right and bottom, up to `side`."""
    bottom, right = max(0, side - image.shape[0]), max(0, side - image.shape[1])
    if not bottom and not right:
        return np.ascontiguousarray(image)
    shape = (image.shape[0] + bottom, image.shape[1] + right, *image.shape[2:])
    padded = np.empty(shape, dtype=np.uint8)
    padded[...] = PAD_RGB if image.ndim == 3 else IGNORED
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _is_varied(labels: np.ndarray, max_share: float) -> bool:
    counts = np.bincount(labels[labels != IGNORED], minlength=1)
    counts = counts[counts > 0]
    return len(counts) > 1 and float(counts.max() / counts.sum()) < max_share


def _scaled(image: np.ndarray, *, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.asarray(np.clip(image.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8))


def _recoloured(image: np.ndarray, *, saturation: float, hue: float) -> np.ndarray:
    hsv = np.array(Image.fromarray(image).convert("HSV")).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue) % 256
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
    return np.array(Image.fromarray(hsv.astype(np.uint8), mode="HSV").convert("RGB"))
