"""A small rendered room with exact geometry, for tests of everything that carries it."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from eval.heads.pairs.box_cameras import Camera
from eval.heads.pairs.box_scene import Boxes
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.raycast import RayCastPairs, texture
from eval.heads.pairs.resize import resize_image
from eval.heads.pairs.views import Pair, View

SIZE = 64, 48


@cache
def room_pairs(*, size: tuple[int, int] = SIZE, seed: int = 3) -> RayCastPairs:
    """Rooms with soft random textures, so that neighbouring pixels have similar colours."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(4)]
    pyramids = [texture(resize_image(image, (384, 384))) for image in coarse]
    return RayCastPairs(name="room", seed=seed, size=size, pyramids=pyramids)


@cache
def room_views(*, size: tuple[int, int] = SIZE, intrinsics: tuple[float, ...] | None = None) -> tuple[View, ...]:
    """Three views of one room; the third one stands between the others.

    Args:
        size: (width, height).
        intrinsics: fx, fy, cx, cy of all cameras; None keeps those that were drawn.
    """
    pairs = room_pairs(size=size)
    boxes, (first, second) = pairs.scene(0)
    middle = second.pose.clone()
    middle[:3, 3] = (first.pose[:3, 3] + second.pose[:3, 3]) / 2
    cameras = [first, second, replace(first, pose=middle)]
    if intrinsics is not None:
        fx, fy, cx, cy = intrinsics
        matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
        cameras = [replace(camera, intrinsics=matrix) for camera in cameras]
    return tuple(pairs.view(boxes, camera, instance=str(number)) for number, camera in enumerate(cameras))


def seen_by(view: View, boxes: Boxes) -> View:
    """Render the room with the camera, pose and size of a view."""
    camera = Camera(
        pose=torch.from_numpy(view.camera_pose.astype(np.float64)),
        intrinsics=torch.from_numpy(view.intrinsics.astype(np.float64)),
        size=view.size,
    )
    return room_pairs().view(boxes, camera, instance=view.instance)


def assert_same_pair(
    found: Pair, true: Pair, *, depth_tolerance: float = 1e-4, scale: float = 1.0, colour_tolerance: float = 0.0
) -> None:
    """Compare cameras, relative pose, depth where both know it, and colours."""
    motion = [inverse_pose(pair[0].camera_pose) @ pair[1].camera_pose for pair in (found, true)]
    np.testing.assert_allclose(motion[0][:3, :3], motion[1][:3, :3], atol=2e-5)
    np.testing.assert_allclose(motion[0][:3, 3] * scale, motion[1][:3, 3], atol=2e-5)
    for one, two in zip(found, true, strict=True):
        np.testing.assert_allclose(one.intrinsics, two.intrinsics, atol=1e-3)
        assert one.valid.mean() > 0.9
        assert np.abs(one.depthmap * scale - two.depthmap)[one.valid].max() <= depth_tolerance
        assert np.abs(one.image.astype(int) - two.image).mean() <= colour_tolerance
