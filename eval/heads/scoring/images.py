"""Images as a pair model takes them, with the cameras that follow. Shapes: H W pixels; sizes are (width, height).

Source: MASt3R's loading of images (naver/mast3r); `stretched` is ours.
"""

from dataclasses import dataclass

import numpy as np

from eval.heads.pairs.geometry import cropped_intrinsics, resized_intrinsics
from eval.heads.pairs.resize import resize_image
from eval.heads.pairs.views import intrinsics_problems
from store.errors import InvalidInput

SQUARELESS_PATCH = 16  # MASt3R's own patch, at which the authors cut squares to 4:3
ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelImage:
    """An image of a size that the model takes.

    Attributes:
        pixels: uint8 (H, W, 3).
        intrinsics: float64 (3, 3) in px of `pixels`, pixel centres at integers; None if the camera is not known.
    """

    pixels: np.ndarray
    intrinsics: np.ndarray | None


def fitted(pixels: np.ndarray, intrinsics: np.ndarray | None, *, long_side: int, patch_size: int) -> ModelImage:
    """Resize an image to a long side, keeping its aspect, and cut its centre to multiples of the patch.

    With patches of 16 px a square is cut to 4:3, as the authors do.

    Args:
        pixels: uint8 (h, w, 3).
        intrinsics: (3, 3) in px of `pixels`, or None.
        long_side: longer side after resizing, px.
        patch_size: px.

    Raises:
        InvalidInput: the intrinsics are no camera's, or the image is too narrow for one patch.
    """
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    inner = [side // patch_size * patch_size for side in size]
    if patch_size == SQUARELESS_PATCH and size[0] == size[1]:
        inner[1] = inner[1] * 3 // 4 // patch_size * patch_size
    if not all(inner):
        raise InvalidInput(
            f"image of {width}x{height} px: its short side is less than one patch at a long side of {long_side} px"
        )
    corner = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    resized = resize_image(pixels, size)
    window = resized[corner[1] : corner[1] + inner[1], corner[0] : corner[0] + inner[0]]
    camera = None
    if intrinsics is not None:
        matrix = _checked(intrinsics)
        camera = cropped_intrinsics(resized_intrinsics(matrix, (size[0] / width, size[1] / height)), corner)
    return ModelImage(pixels=np.ascontiguousarray(window), intrinsics=camera)


def stretched(pixels: np.ndarray, *, long_side: int, patch_size: int) -> np.ndarray:
    """Resize an image to multiples of the patch without cutting anything, so that a dense map covers all of it.

    The aspect changes by at most half a patch.
    """
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    size = [max(1, round(side * scale / patch_size)) * patch_size for side in (width, height)]
    return resize_image(pixels, (size[0], size[1]))


def camera_of_image(
    intrinsics: np.ndarray, camera_size: tuple[int, int] | None, pixels: np.ndarray, *, where: str
) -> np.ndarray:
    """Return intrinsics in px of an image that was stored at another size than the camera's.

    Raises:
        InvalidInput: the image has another aspect.
    """
    size = pixels.shape[1], pixels.shape[0]
    if camera_size is None or camera_size == size:
        return intrinsics
    if min(camera_size) < 1 or abs(camera_size[0] * size[1] / (camera_size[1] * size[0]) - 1) > ASPECT_TOLERANCE:
        raise InvalidInput(
            f"{where}: intrinsics of {camera_size[0]}x{camera_size[1]} px, the image has {size[0]}x{size[1]}, another "
            "aspect"
        )
    return resized_intrinsics(intrinsics, (size[0] / camera_size[0], size[1] / camera_size[1]))


def _checked(intrinsics: np.ndarray) -> np.ndarray:
    matrix = np.asarray(intrinsics, dtype=np.float64)
    problems = intrinsics_problems(matrix)
    if problems:
        raise InvalidInput(problems[0])
    return matrix
