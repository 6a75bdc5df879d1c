"""Ray-cast rooms: exact geometry, a function of (seed, index)."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.heads.pairs.box_cameras import Camera, overlap_of
from eval.heads.pairs.box_scene import Boxes, cast, looking_at
from eval.heads.pairs.geometry import project, world_points
from eval.heads.pairs.raycast import RayCastPairs, render, texture, textures
from store.errors import InvalidInput, MissingFile
from tests.eval.heads.pairs.room import room_pairs

RNG = np.random.default_rng(0)


def test_every_pixel_lands_where_the_other_view_shows_the_same_point() -> None:
    pairs = room_pairs()
    for index in range(3):
        boxes, (_, second) = pairs.scene(index)
        one, two = pairs.pair(index, RNG)
        points = world_points(one)[one.valid]
        pixels, depth = project(points, two)
        origin = torch.from_numpy(two.camera_pose[:3, 3].astype(np.float64))
        free = cast(boxes, origin, torch.from_numpy(points) - origin).distance.numpy()
        assert free.max() < 1 + 1e-5  # no point floats before a surface: rays to it end there or earlier
        nearest = np.rint(pixels).astype(int)
        inside = (depth > 0) & (nearest >= 0).all(axis=1) & (nearest < two.size).all(axis=1) & (free > 1 - 1e-5)
        assert inside.mean() > 0.25
        x, y = nearest[inside].T
        assert np.median(np.abs(two.depthmap[y, x] / depth[inside] - 1)) < 0.01
        colours = one.image[one.valid][inside].astype(int), two.image[y, x].astype(int)
        assert np.abs(colours[0] - colours[1]).mean() < 12
        assert np.abs(np.roll(colours[0], 40, axis=0) - colours[1]).mean() > 25
        assert second.size == two.size


def plain_wall() -> Boxes:
    """A room whose wall at x = 2 m shows texture 0, with a pixel of it every 10 cm, and no other solid."""
    return Boxes(
        centre=torch.zeros(1, 3, dtype=torch.float64),
        half=torch.full((1, 3), 2.0, dtype=torch.float64),
        turn=torch.zeros(1, dtype=torch.float64),
        texture=torch.zeros(1, 6, dtype=torch.int64),
        texels_per_m=torch.full((1, 6), 10.0, dtype=torch.float64),
        offset=torch.zeros(1, 6, 2, dtype=torch.float64),
        shade=torch.ones(1, 6, dtype=torch.float64),
    )


def test_a_wall_straight_ahead_has_one_depth_and_its_texture() -> None:
    pose = looking_at(torch.zeros(3, dtype=torch.float64), torch.tensor([2.0, 0, 0], dtype=torch.float64), roll=0)
    intrinsics = torch.tensor([[20.0, 0, 10], [0, 20.0, 10], [0, 0, 1]], dtype=torch.float64)
    ramp = np.arange(50, dtype=np.uint8)[None, :, None].repeat(50, axis=0).repeat(3, axis=2)  # along y of the world
    image, depth = render(
        plain_wall(), Camera(pose=pose, intrinsics=intrinsics, size=(21, 21)), [texture(ramp)], samples=1
    )
    np.testing.assert_allclose(depth, 2, atol=1e-6)
    # x right is -y of the world: a pixel is 10 cm, as is a pixel of the texture, which begins again at 50
    assert image[10, :, 0].tolist() == [(10 - x) % 50 for x in range(21)]


def test_pairs_are_a_function_of_seed_and_index() -> None:
    one, two = room_pairs(), replace(room_pairs())
    for view, again in zip(one.pair(4, RNG), two.pair(4, np.random.default_rng(9)), strict=True):
        assert np.array_equal(view.image, again.image)
        assert np.array_equal(view.depthmap, again.depthmap)
        assert np.array_equal(view.camera_pose, again.camera_pose)
    assert not np.array_equal(one.pair(5, RNG)[0].image, one.pair(4, RNG)[0].image)
    assert not np.array_equal(replace(one, seed=4).pair(4, RNG)[0].image, one.pair(4, RNG)[0].image)


def test_pairs_overlap_as_asked() -> None:
    pairs = replace(room_pairs(), overlap=(0.5, 0.6))
    for index in range(3):
        boxes, (first, second) = pairs.scene(index)
        assert 0.5 <= overlap_of(boxes, first, second) <= 0.6
    with pytest.raises(InvalidInput, match="no two cameras with an overlap"):
        replace(pairs, overlap=(1.5, 2.0)).scene(0)


def test_a_camera_looks_where_it_is_told() -> None:
    pose = looking_at(torch.tensor([1.0, 2, 3]).double(), torch.tensor([1.0, 5, 3]).double(), roll=0).numpy()
    np.testing.assert_allclose(pose[:3, 2], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 1], [0, 0, -1], atol=1e-12)
    assert math.isclose(np.linalg.det(pose[:3, :3]), 1)


def test_textures_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no image in"):
        textures(tmp_path)
    Image.fromarray(np.full((40, 30, 3), 200, dtype=np.uint8)).save(tmp_path / "a.png")
    pyramids = textures(tmp_path)
    one, _ = RayCastPairs(name="folder", seed=0, size=(32, 24), pyramids=pyramids).pair(0, RNG)
    assert one.image.max() <= 200
    assert one.image.min() >= 110  # faces are 0.6 to 1.0 as bright
    assert len(textures(None)) > 8
