"""Random rooms, and random cameras in them that see much of the same. Deterministic in the generator."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.heads.pairs.box_scene import Boxes, cast, inside_boxes, looking_at
from store.errors import InvalidInput

TRIES = 200
CLEARANCE_M = 0.35
COARSE = 16, 12  # rays (columns, rows) that measure the overlap
FIELD_DEGREES = 50.0, 75.0  # horizontal field of view
WALL_TEXELS, BOX_TEXELS = (90.0, 220.0), (150.0, 400.0)  # pixels of a texture for a metre


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera in the room.

    Attributes:
        pose: float64 (4, 4), camera to world.
        intrinsics: float64 (3, 3), pixel centres at integers.
        size: (width, height).
    """

    pose: Tensor
    intrinsics: Tensor
    size: tuple[int, int]

    def rays(self, pixels: Tensor) -> Tensor:
        """Return the rays (R, 3) of pixels (R, 2) in the world, with z = 1 in the camera's frame."""
        homogeneous = torch.cat([pixels, torch.ones(len(pixels), 1, dtype=torch.float64)], dim=1)
        rays: Tensor = homogeneous @ torch.linalg.inv(self.intrinsics).T @ self.pose[:3, :3].T
        return rays


def random_room(rng: np.random.Generator, *, textures: int) -> Boxes:
    """Draw a room of 4 to 8 metres with 4 to 9 boxes.

    Args:
        rng: generator.
        textures: number of textures there are.
    """
    room = np.array([rng.uniform(2, 4), rng.uniform(2, 4), rng.uniform(1.25, 1.75)])
    count = int(rng.integers(4, 10))
    half = rng.uniform((0.15, 0.15, 0.15), (0.6, 0.6, 0.8), size=(count, 3))
    place = rng.uniform(-1, 1, size=(count, 2)) * (room[:2] - 0.8)
    centre = np.concatenate([place, half[:, 2:] - room[2]], axis=1)
    shape = count + 1, 6
    texels = np.concatenate([rng.uniform(*WALL_TEXELS, size=(1, 6)), rng.uniform(*BOX_TEXELS, size=(count, 6))])
    return Boxes(
        centre=torch.from_numpy(np.concatenate([np.zeros((1, 3)), centre])),
        half=torch.from_numpy(np.concatenate([room[None], half])),
        turn=torch.from_numpy(np.concatenate([[0.0], rng.uniform(0, math.pi, size=count)])),
        texture=torch.from_numpy(rng.integers(0, textures, size=shape)),
        texels_per_m=torch.from_numpy(texels),
        offset=torch.from_numpy(rng.uniform(0, 1000, size=(*shape, 2))),
        shade=torch.from_numpy(rng.uniform(0.6, 1.0, size=shape)),
    )


def random_cameras(
    boxes: Boxes, rng: np.random.Generator, *, size: tuple[int, int], overlap: tuple[float, float]
) -> tuple[Camera, Camera]:
    """Draw two cameras.

    Args:
        boxes: the room.
        rng: generator.
        size: (width, height) of both images.
        overlap: least and most share of view 1 that view 2 shows, too.

    Raises:
        InvalidInput: no such cameras were found.
    """
    for _ in range(TRIES):
        origin = _free_point(boxes, rng, torch.zeros(3, dtype=torch.float64), spread=boxes.half[0].numpy() * 0.8)
        if origin is None:
            continue
        target = torch.from_numpy(rng.uniform(-0.5, 0.5, size=3)) * boxes.half[0]
        first = _camera(origin, target, rng, size=size)
        reach = float((target - origin).norm())
        beside = _free_point(boxes, rng, origin, spread=np.array([0.35, 0.35, 0.15]) * max(reach, 1.0))
        if beside is None or reach < 0.5:
            continue
        second = _camera(beside, target + torch.from_numpy(rng.normal(0, 0.12 * reach, size=3)), rng, size=size)
        if overlap[0] <= overlap_of(boxes, first, second) <= overlap[1]:
            return first, second
    raise InvalidInput(f"no two cameras with an overlap of {overlap[0]} to {overlap[1]} after {TRIES} tries. Widen it")


def overlap_of(boxes: Boxes, first: Camera, second: Camera) -> float:
    """Return the share of a grid on view 1 whose points view 2 shows, too."""
    steps = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in COARSE]
    columns, rows = torch.meshgrid(steps[0] * first.size[0] - 0.5, steps[1] * first.size[1] - 0.5, indexing="xy")
    rays = first.rays(torch.stack([columns.flatten(), rows.flatten()], dim=1))
    points = first.pose[:3, 3] + rays * cast(boxes, first.pose[:3, 3], rays).distance[:, None]
    sight = points - second.pose[:3, 3]
    inside = sight @ second.pose[:3, :3]
    pixels = (inside @ second.intrinsics.T)[:, :2] / inside[:, 2:]
    limit = torch.tensor(second.size, dtype=torch.float64) - 0.5
    framed = (inside[:, 2] > 0) & (pixels > -0.5).all(dim=1) & (pixels < limit).all(dim=1)
    clear = cast(boxes, second.pose[:3, 3], sight).distance > 1 - 1e-6
    return float((framed & clear).double().mean())


def _camera(origin: Tensor, target: Tensor, rng: np.random.Generator, *, size: tuple[int, int]) -> Camera:
    width, height = size
    focal = width / 2 / math.tan(math.radians(rng.uniform(*FIELD_DEGREES)) / 2)
    centre = (np.array(size) - 1) / 2 + rng.uniform(-0.03, 0.03, size=2) * size
    intrinsics = torch.tensor([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]], dtype=torch.float64)
    pose = looking_at(origin, target, roll=float(rng.normal(0, 0.05)))
    return Camera(pose=pose, intrinsics=intrinsics, size=(width, height))


def _free_point(boxes: Boxes, rng: np.random.Generator, middle: Tensor, *, spread: np.ndarray) -> Tensor | None:
    """Draw a point around `middle` that is clear of walls and solids; None if the draw is not."""
    point = middle + torch.from_numpy(rng.uniform(-1, 1, size=3) * spread)
    return None if inside_boxes(boxes, point, margin_m=CLEARANCE_M) else point
