"""Source photographs as their manifest rows speak of them: upright, with the crop of a view."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors

LONGEST_SIDE_PX = 1024
INSPECT_EXTRA = "pip install 'codistill[inspect]'"


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A source image for looking at.

    Attributes:
        pixels: uint8 [h, w, 3], upright, made smaller.
        width, height: px of the upright original, which the crop speaks of.
        crop: (top, left, height, width) px of the original.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    crop: tuple[int, int, int, int]


def read_photograph(path: Path, record: Mapping[str, Any]) -> Photograph | str:
    """Read a source image, turned as its manifest row says.

    Args:
        path: of the image file.
        record: the manifest row.

    Returns:
        The photograph, or why it cannot be shown.

    Raises:
        errors.MissingExtra: pillow is not installed.
    """
    if record.get("crop_height") is None:
        return "no crop: the row has no pixels"
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise errors.MissingExtra(f"pictures need pillow. Run: {INSPECT_EXTRA}") from error
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"source photograph not readable: {error}"
    if record["rotate_deg"]:
        image = image.rotate(record["rotate_deg"], expand=True)  # counter-clockwise, as the rotate rule
    if image.size != (record["source_width"], record["source_height"]):
        wanted = f"{record['source_width']} x {record['source_height']}"
        return f"source photograph has changed: {image.width} x {image.height} px, was {wanted}"
    width, height = image.size
    image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    top, left, crop_height, crop_width = (record[f"crop_{name}"] for name in ("top", "left", "height", "width"))
    return Photograph(pixels=np.asarray(image), width=width, height=height, crop=(top, left, crop_height, crop_width))
