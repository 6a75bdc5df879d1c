"""Reader of staticthings3d on a miniature that is written here in the public layout."""

from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.staticthings3d import StaticThings3DOptions, open_pairs
from store.errors import InvalidInput
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import assert_same_pair, room_views

CAMERA = 58.0, 58.0, 30.5, 24.5  # one for all
FRAMES = (("left", 6), ("right", 6), ("left", 12))


def write_float3(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "\n".join(["float", str(array.ndim), *(str(side) for side in reversed(array.shape))])
    path.write_bytes(header.encode() + b"\n" + array.astype("<f4").tobytes())


def written(root: Path) -> None:
    for (side, number), view in zip(FRAMES, room_views(intrinsics=CAMERA), strict=True):
        depth = view.depthmap.copy()
        depth[0, :3] = np.inf, -1, np.nan
        trees.write_image(root / f"frames_cleanpass/TRAIN/A/0000/{side}/{number:04d}.png", view.image)
        write_float3(root / f"depths/TRAIN/A/0000/{side}/{number:04d}.float3", depth)
        write_float3(root / f"poses/TRAIN/A/0000/{side}/{number:04d}.float3", trees.world_to_camera(view))
        write_float3(root / f"intrinsics/TRAIN/A/0000/{number:04d}.float3", view.intrinsics)


def test_views_of_a_miniature(tmp_path: Path) -> None:
    written(tmp_path)
    dataset = open_pairs(Tree(tmp_path, subject="s"), StaticThings3DOptions())
    assert len(dataset) == 1  # the third frame is six numbers apart
    found = trees.pair_of(dataset, "left/0006.png", "right/0006.png")
    assert_same_pair(found, room_views(intrinsics=CAMERA)[:2])
    assert (~found[0].valid).sum() == 3
    assert not found[0].is_metric
    assert len(open_pairs(Tree(tmp_path, subject="s"), StaticThings3DOptions(most_apart=6))) == 3


def test_a_pose_that_is_none(tmp_path: Path) -> None:
    written(tmp_path)
    write_float3(tmp_path / "poses/TRAIN/A/0000/left/0006.float3", np.zeros((4, 4)))
    with pytest.raises(InvalidInput, match="expected a rotation and a translation"):
        open_pairs(Tree(tmp_path, subject="s"), StaticThings3DOptions())
    write_float3(tmp_path / "poses/TRAIN/A/0000/left/0006.float3", np.zeros((3, 4)))
    with pytest.raises(InvalidInput, match="expected a 4 x 4 matrix"):
        open_pairs(Tree(tmp_path, subject="s"), StaticThings3DOptions())
