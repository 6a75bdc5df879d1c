"""Views resized and cropped to a target size without change of the viewpoint; camera and depth follow.

Images are reduced with Lanczos and enlarged with a bicubic filter, depth and masks take the nearest pixel. Shapes: H W
pixels; sizes are (width, height).
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from eval.heads.pairs.geometry import cropped_intrinsics, resized_intrinsics
from eval.heads.pairs.views import View

Size = tuple[int, int]

SQUARE_RATIOS = 0.9, 1.1  # height over width between which an image may be taken as upright or not


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 (H, W, 3) to `size`: Lanczos if it shrinks, else bicubic."""
    shrinks = size[0] < image.shape[1] or size[1] < image.shape[0]
    filtered = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC)
    return np.array(filtered)  # writable, which torch wants


def resize_nearest(array: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W) to `size` by the pixel below each new pixel's centre."""
    height, width = array.shape
    columns = ((np.arange(size[0]) + 0.5) * (width / size[0])).astype(np.int64)
    rows = ((np.arange(size[1]) + 0.5) * (height / size[1])).astype(np.int64)
    nearest: np.ndarray = array[rows[:, None], columns]
    return nearest


def resize_view(view: View, size: Size) -> View:
    """Resize a view; both sides may scale differently."""
    if size == view.size:
        return view
    scale = size[0] / view.size[0], size[1] / view.size[1]
    return replace(
        view,
        image=resize_image(view.image, size),
        depthmap=resize_nearest(view.depthmap, size),
        valid=resize_nearest(view.valid, size),
        sky=resize_nearest(view.sky, size),
        intrinsics=resized_intrinsics(view.intrinsics, scale).astype(np.float32),
    )


def crop_view(view: View, corner: tuple[int, int], size: Size) -> View:
    """Cut `size` pixels out of a view, whose top left pixel is `corner` = (x, y)."""
    window = slice(corner[1], corner[1] + size[1]), slice(corner[0], corner[0] + size[0])
    return replace(
        view,
        image=view.image[window],
        depthmap=view.depthmap[window],
        valid=view.valid[window],
        sky=view.sky[window],
        intrinsics=cropped_intrinsics(view.intrinsics, corner).astype(np.float32),
    )


def cover(view: View, size: Size) -> View:
    """Resize a view so that it just covers `size`, then crop its centre to that."""
    scale = max(size[0] / view.size[0], size[1] / view.size[1])
    covering = tuple(max(target, round(side * scale)) for target, side in zip(size, view.size, strict=True))
    resized = resize_view(view, (covering[0], covering[1]))
    return crop_view(resized, ((covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2), size)


def contain(view: View, long_side: int, *, multiple: int) -> View:
    """Resize a view to a long side, then crop its centre so that both sides are multiples of the patch."""
    scale = long_side / max(view.size)
    resized = resize_view(view, (max(1, round(view.size[0] * scale)), max(1, round(view.size[1] * scale))))
    width, height = (max(multiple, side // multiple * multiple) for side in resized.size)
    return crop_view(resized, ((resized.size[0] - width) // 2, (resized.size[1] - height) // 2), (width, height))


def oriented_size(target: Size, image: Size, rng: np.random.Generator) -> Size:
    """Return the target size for an image: upright if the image is, by chance if it is about square.

    A portrait is 1.1 times as high as wide. Within 10 % of square either is taken, unless the target is square.
    """
    ratio = image[1] / image[0]
    landscape = max(target), min(target)
    if SQUARE_RATIOS[0] < ratio < SQUARE_RATIOS[1] and target[0] != target[1]:
        upright = bool(rng.integers(2))
    else:
        upright = ratio > SQUARE_RATIOS[1]
    return (landscape[1], landscape[0]) if upright else landscape
