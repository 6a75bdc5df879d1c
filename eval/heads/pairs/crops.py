"""Random crops that look through the middle of the lens: the camera turns towards the crop's centre.

A crop off the centre has its principal point outside of its middle, or of itself. So the crop is seen by a camera at
the same place that is turned towards its centre, which is a homography of the image: bicubic for colours, nearest for
depth, which becomes the distance along the new axis. Shapes: H W pixels; sizes are (width, height).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eval.heads.pairs.geometry import pixel_rays, resized_intrinsics
from eval.heads.pairs.matches import common_pixels
from eval.heads.pairs.resize import Size, resize_image
from eval.heads.pairs.views import Pair, View

LEAST_ENLARGEMENT = 0.1  # the range of the zoom is at least this share of the image
CANDIDATES = 4  # crops of each view
OVERLAP_GRID_PX = 160  # long side of the depth maps that correspondences are counted on


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A window of an image that becomes a target of another size.

    Attributes:
        centre: its centre (x, y) in pixels of the image.
        scale: pixels of the target over pixels of the image.
        size: the target.
    """

    centre: tuple[float, float]
    scale: float
    size: Size

    def contains(self, pixels: np.ndarray) -> np.ndarray:
        """Tell which pixels (M, 2) of the image the window holds."""
        half = np.array(self.size) / (2 * self.scale)
        held: np.ndarray = (np.abs(pixels - np.array(self.centre)) < half).all(axis=1)
        return held


def crop_pair(pair: Pair, sizes: tuple[Size, Size], rng: np.random.Generator) -> Pair:
    """Draw four crops of each view and take the two that have the most correspondences in common.

    Args:
        pair: two views.
        sizes: target of each view.
        rng: decides zoom and place of the crops.
    """
    common = common_pixels(pair, long_side=OVERLAP_GRID_PX)
    crops = [[random_crop(view, size, rng) for _ in range(CANDIDATES)] for view, size in zip(pair, sizes, strict=True)]
    held = [np.stack([c.contains(pixels) for c in each]) for each, pixels in zip(crops, common, strict=True)]
    counts = held[0].astype(np.int64) @ held[1].T.astype(np.int64)
    first, second = np.unravel_index(int(counts.argmax()), counts.shape)
    return turn_to_crop(pair[0], crops[0][first]), turn_to_crop(pair[1], crops[1][second])


def random_crop(view: View, size: Size, rng: np.random.Generator) -> Crop:
    """Draw zoom and place of a crop of the target's aspect.

    At zoom 1 the image just covers the target. The zoom is exp(U(0, log(1 + a / S))), a = max(0.1 S, S (S - R) // R),
    with the shorter sides S of the image and R of the target: at most one pixel of the image for one of the target,
    or 10 % of enlargement.
    """
    shortest, target = min(view.size), min(size)
    room = max(LEAST_ENLARGEMENT * shortest, shortest * (shortest - target) // target)
    zoom = math.exp(rng.uniform(0, math.log(1 + room / shortest)))
    scale = zoom * max(size[0] / view.size[0], size[1] / view.size[1])
    window = size[0] / scale, size[1] / scale
    corner = [rng.uniform(0, max(0.0, side - part)) for side, part in zip(view.size, window, strict=True)]
    centre = corner[0] + window[0] / 2 - 0.5, corner[1] + window[1] / 2 - 0.5
    return Crop(centre=centre, scale=scale, size=size)


def turn_to_crop(view: View, crop: Crop) -> View:
    """Return what a camera at the same place sees that is turned towards a crop.

    Its principal point is the middle of the new image; its focal lengths are those of the scaled image, divided by the
    cosine of the turn, so that the scale at the middle is that of the crop.
    """
    ray = np.linalg.inv(view.intrinsics.astype(np.float64)) @ (*crop.centre, 1.0)
    turn = rotation_towards(ray)  # rows: the new axes in the old frame
    focal = view.intrinsics.astype(np.float64)[(0, 1), (0, 1)] * crop.scale * np.linalg.norm(ray)
    width, height = crop.size
    intrinsics = np.array([[focal[0], 0, (width - 1) / 2], [0, focal[1], (height - 1) / 2], [0, 0, 1]])
    rays = pixel_rays(intrinsics, crop.size) @ turn  # in the old frame
    image, camera = _at_scale(view, crop.scale)
    depth, valid, sky = _nearest(view, rays, turn)
    pose = view.camera_pose.astype(np.float64)
    pose[:3, :3] = pose[:3, :3] @ turn.T
    return replace(
        view,
        image=_bicubic(image, _pixels_of(rays, camera)),
        depthmap=depth,
        valid=valid,
        sky=sky,
        intrinsics=intrinsics.astype(np.float32),
        camera_pose=pose.astype(np.float32),
    )


def rotation_towards(ray: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) whose z axis (last row) is `ray`, with a horizontal x axis: it does not roll."""
    z = ray / np.linalg.norm(ray)
    x = np.cross((0.0, 1.0, 0.0), z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _at_scale(view: View, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, reduced to about the crop's scale so that fine patterns do not alias, and its camera."""
    if scale >= 1:
        return view.image, view.intrinsics.astype(np.float64)
    size = max(1, round(view.size[0] * scale)), max(1, round(view.size[1] * scale))
    factors = size[0] / view.size[0], size[1] / view.size[1]
    return resize_image(view.image, size), resized_intrinsics(view.intrinsics, factors)


def _pixels_of(rays: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W, 2) of an image that rays (H, W, 3) meet."""
    pixels = rays @ intrinsics.astype(np.float64).T
    met: np.ndarray = pixels[..., :2] / pixels[..., 2:]
    return met


def _nearest(view: View, rays: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth along the new axis, valid and sky at the pixels nearest to rays; nothing outside of the image."""
    pixels = np.rint(_pixels_of(rays, view.intrinsics)).astype(np.int64)
    inside = (pixels >= 0).all(axis=-1) & (pixels < view.size).all(axis=-1)
    x, y = np.where(inside, pixels[..., 0], 0), np.where(inside, pixels[..., 1], 0)
    axis = np.linalg.inv(view.intrinsics.astype(np.float64)).T @ turn[2]
    along = x * axis[0] + y * axis[1] + axis[2]  # new depth over old depth
    valid = view.valid[y, x] & inside & (along > 0)
    depth = np.where(valid, view.depthmap[y, x] * along, 0).astype(np.float32)
    return depth, valid, view.sky[y, x] & inside


def _bicubic(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the colours of an image (H, W, 3) at pixels (h, w, 2); black outside."""
    height, width = image.shape[:2]
    source: Tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    grid = torch.from_numpy((pixels + 0.5) / (width, height) * 2 - 1).float()[None]
    sampled = functional.grid_sample(source, grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    colours = sampled.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    inside: np.ndarray = np.all((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5)), axis=-1, keepdims=True)
    return np.where(inside, colours, 0).astype(np.uint8)
