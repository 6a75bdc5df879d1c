"""Images and folders that tests make for themselves."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, *, height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth coloured picture, uint8 (height, width, 3), from integer arithmetic alone: the same everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [
        (x * (3 + seed % 5) + y * (2 + c) + (x * y * (1 + c + seed % 3)) // 64 + 40 * seed) % 512 for c in range(3)
    ]
    folded = [np.where(channel > 255, 511 - channel, channel) for channel in channels]
    return np.stack(folded, axis=-1).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def image_folder(folder: Path, count: int, *, kind: str = "PNG") -> Path:
    """A folder of `count` pictures of different sizes, some in subfolders."""
    for number in range(count):
        path = folder / f"part{number % 3}" / f"{number:03d}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, height=48 + number % 7, width=64 + number % 5), kind))
    return folder
