"""Parameters of a view: crop, flip and colours, a pure function of (recipe, dataset, image, view number).

Every parameter comes from its own fixed position in one block of Philox words keyed by those four, so it depends on no
other parameter, no order of work, no worker, and no library's way of sampling distributions.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np

from extract.catalogue import VIEW_RULE, ViewRecipe

RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
JITTER_PROBABILITY, GREY_PROBABILITY, BLUR_PROBABILITY, SOLARIZE_PROBABILITY = 0.8, 0.2, 0.2, 0.2
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
BLUR_SIGMA = (0.1, 5.0)
JITTER_STEPS = "bcsh"
LONGEST_CENTER_RATIO = 32  # beyond it, resizing the short side would need gigabytes
# Positions in the block of words: four for each try at a crop, then one for each of the others.
FLIP, JITTER, B, C, S, H = range(CROP_TRIES * 4, CROP_TRIES * 4 + 6)
ORDER = slice(H + 1, H + 5)
GREY, BLUR, SIGMA, SOLARIZE, WORDS = range(H + 5, H + 10)


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """Colour changes, in the order of their application; None means not applied.

    `brightness`, `contrast`, `saturation` (factors) and `hue` (turns) are all None or all numbers, applied in
    `jitter_order`, a permutation of "bcsh". `blur_sigma` is in px of the stored view.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    jitter_order: str | None = None
    grayscale: bool = False
    blur_sigma: float | None = None
    solarize: bool = False


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """Parameters of one view: its rectangle in the upright image (px), horizontal flip, and colours.

    With `center`, short side and crop follow the evaluation rule, and the rectangle is rounded to whole px.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    center: bool = False
    photometric: Photometric = Photometric()


def sample_view(recipe: ViewRecipe, *, dataset: str, path: str, view: int, width: int, height: int) -> ViewParameters:
    """Sample the parameters of a random (training) view, distributed as in the released recipe.

    Args:
        recipe: view recipe of the cache.
        dataset: name of the dataset.
        path: path of the image, relative to the dataset's root.
        view: number of the view.
        width: width of the upright image, px.
        height: height of the upright image, px.
    """
    uniform = _uniforms(recipe.seed, dataset, path, view)
    top, left, crop_height, crop_width = _random_crop(recipe.crop_scale, uniform, width, height)
    return ViewParameters(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        flip=uniform[FLIP] < recipe.flip,
        photometric=_photometric(uniform) if recipe.photometric == "dune" else Photometric(),
    )


def center_view(image_size: int, *, width: int, height: int) -> ViewParameters:
    """Return the parameters of the central view of an image: short side to `image_size` px, then a square crop."""
    new_width, new_height = short_side_size(image_size, width=width, height=height)
    top, left = center_offset(image_size, width=new_width, height=new_height)
    return ViewParameters(
        top=round(top * height / new_height),
        left=round(left * width / new_width),
        height=min(height, round(image_size * height / new_height)),
        width=min(width, round(image_size * width / new_width)),
        center=True,
    )


def short_side_size(image_size: int, *, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) after resizing the short side; the long one is rounded down, as by torchvision."""
    if width <= height:
        return image_size, int(image_size * height / width)
    return int(image_size * width / height), image_size


def center_offset(image_size: int, *, width: int, height: int) -> tuple[int, int]:
    """Return (top, left) of the central square, rounded as by torchvision's CenterCrop."""
    return round((height - image_size) / 2), round((width - image_size) / 2)


def _uniforms(seed: int, dataset: str, path: str, view: int) -> list[float]:
    """Return WORDS numbers in [0, 1), of 53 bits each."""
    subject = json.dumps([VIEW_RULE, seed, dataset, path, view], separators=(",", ":"))
    key = int.from_bytes(hashlib.blake2b(subject.encode(), digest_size=16).digest(), "little")
    words = np.random.Philox(key=key).random_raw(WORDS)
    return [int(word >> 11) * 2.0**-53 for word in words.tolist()]


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform


def _float32(value: float) -> float:
    """Round to float32, as the manifest stores it, so that its values give exactly the same pixels."""
    return float(np.float32(value))


def _random_crop(
    scale: tuple[float, float], uniform: list[float], width: int, height: int
) -> tuple[int, int, int, int]:
    """Sample (top, left, height, width) as torchvision's RandomResizedCrop: ten tries, else the largest center crop."""
    for attempt in range(CROP_TRIES):
        u_area, u_ratio, u_top, u_left = uniform[attempt * 4 : attempt * 4 + 4]
        area = width * height * _between(*scale, u_area)
        ratio = math.exp(_between(math.log(RATIO[0]), math.log(RATIO[1]), u_ratio))
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(u_top * (height - crop_height + 1))
            left = int(u_left * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width / height < RATIO[0]:
        crop_height = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        crop_width = round(height * RATIO[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _photometric(uniform: list[float]) -> Photometric:
    jitter = uniform[JITTER] < JITTER_PROBABILITY
    order = [step for _, step in sorted(zip(uniform[ORDER], JITTER_STEPS, strict=True))]
    return Photometric(
        brightness=_float32(_between(1 - BRIGHTNESS, 1 + BRIGHTNESS, uniform[B])) if jitter else None,
        contrast=_float32(_between(1 - CONTRAST, 1 + CONTRAST, uniform[C])) if jitter else None,
        saturation=_float32(_between(1 - SATURATION, 1 + SATURATION, uniform[S])) if jitter else None,
        hue=_float32(_between(-HUE, HUE, uniform[H])) if jitter else None,
        jitter_order="".join(order) if jitter else None,
        grayscale=uniform[GREY] < GREY_PROBABILITY,
        blur_sigma=_float32(_between(*BLUR_SIGMA, uniform[SIGMA])) if uniform[BLUR] < BLUR_PROBABILITY else None,
        solarize=uniform[SOLARIZE] < SOLARIZE_PROBABILITY,
    )
