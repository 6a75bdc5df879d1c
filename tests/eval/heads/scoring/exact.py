"""A made scene, and a stand-in of a pair model that predicts it exactly."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from eval.heads.pairs.box_scene import looking_at
from eval.heads.pairs.geometry import inverse_pose, transform, world_points
from eval.heads.pairs.views import View
from eval.heads.scoring.predictor import Outputs, Predictor
from tests.eval.heads.pairs.room import room_pairs

SIZE = 112, 84  # multiples of the patch: the model is given the images as they are
PATCH = 14
WAVES = np.random.default_rng(5).normal(0, 9, (3, 24)), np.random.default_rng(6).uniform(0, 6, 24)


@cache
def room(count: int, *, size: tuple[int, int] = SIZE, index: int = 0) -> tuple[View, ...]:
    """Views of a room from places between two cameras, with the first one's intrinsics."""
    pairs = room_pairs(size=size)
    boxes, (first, last) = pairs.scene(index)
    shares = np.linspace(0, 1, count)
    turns = Slerp([0, 1], Rotation.from_matrix(torch.stack([first.pose[:3, :3], last.pose[:3, :3]]).numpy()))(shares)
    views = []
    for number, share in enumerate(shares):
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.from_numpy(turns[number].as_matrix())
        pose[:3, 3] = (1 - share) * first.pose[:3, 3] + share * last.pose[:3, 3]
        views.append(pairs.view(boxes, replace(first, pose=pose), instance=str(number)))
    return tuple(views)


@cache
def arc(count: int, *, size: tuple[int, int] = SIZE, index: int = 0) -> tuple[View, ...]:
    """Views of a room from above its boxes, far apart beside one another, all towards one place."""
    pairs = room_pairs(size=size)
    boxes, (first, _) = pairs.scene(index)
    half = boxes.half[0]
    target = half * torch.tensor([0.0, 0.6, -0.5], dtype=torch.float64)
    views = []
    for number, share in enumerate(np.linspace(-0.8, 0.8, count)):
        place = half * torch.tensor([share, -0.7 + 0.2 * (number % 2), 0.5 + 0.3 * share], dtype=torch.float64)
        camera = replace(first, pose=looking_at(place, target, roll=0.1 * share))
        views.append(pairs.view(boxes, camera, instance=str(number)))
    return tuple(views)


def in_first(views: tuple[View, ...]) -> list[np.ndarray]:
    """World-to-camera matrices, the world being the first camera's frame."""
    first = views[0].camera_pose.astype(np.float64)
    return [inverse_pose(view.camera_pose) @ first for view in views]


def moved(outputs: Outputs, **changes: Callable[[torch.Tensor], torch.Tensor]) -> Outputs:
    """Outputs of which some are changed."""
    return {name: changes[name](value) if name in changes else value for name, value in outputs.items()}


@dataclass
class ExactPairs:
    """Knows images by their pixels, and predicts points in metres and descriptors that are a function of the place.

    Attributes:
        spoil: changes what is predicted for the first view.
        seen: number of images that were encoded.
    """

    patch_size: int = PATCH
    spoil: Callable[[Outputs], Outputs] | None = None
    seen: int = 0
    known: dict[bytes, View] = field(default_factory=dict)

    def learn(self, path: Path, view: View) -> None:
        """Note which view an image file shows."""
        with Image.open(path) as image:
            self.known[np.asarray(image.convert("RGB")).tobytes()] = view

    def encode(self, images: np.ndarray) -> View:
        self.seen += 1
        return self.known[images[0].tobytes()]

    def decode(self, one: View, two: View) -> tuple[Outputs, Outputs]:
        outward = inverse_pose(one.camera_pose)
        first, second = (self._outputs(view, outward) for view in (one, two))
        if self.spoil is not None:
            first = self.spoil(first)
        return first, {"pts3d_in_other_view": second.pop("pts3d"), **second}

    def _outputs(self, view: View, outward: np.ndarray) -> Outputs:
        world = world_points(view)
        desc = torch.from_numpy(np.sin(world @ WAVES[0] + WAVES[1])).float()
        conf = torch.full((1, *world.shape[:2]), 2.0)
        return {
            "pts3d": torch.from_numpy(transform(outward, world)).float()[None],
            "conf": conf,
            "desc": torch.nn.functional.normalize(desc, dim=-1)[None],
            "desc_conf": conf,
        }


def predictor(pairs: Any, name: str = "exact") -> Predictor:
    """A predictor whose images keep their size."""
    return Predictor(pairs=pairs, identity={"name": name}, long_side=max(SIZE))
