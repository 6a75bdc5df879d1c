"""Reader of virtualkitti on a miniature that is written here in the public layout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.options import VideoOptions
from eval.heads.pairs.layouts.virtualkitti import open_pairs
from store.errors import InvalidInput
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import assert_same_pair

FRAMES = ((0, 0), (0, 1), (1, 0))  # frame and camera of each view


def written(root: Path) -> Path:
    folder = root / "Scene01/15-deg-left"
    extrinsic = ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"]
    intrinsic = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"]
    for (frame, camera), view in zip(FRAMES, trees.views(), strict=True):
        trees.write_image(folder / f"frames/rgb/Camera_{camera}/rgb_{frame:05d}.jpg", view.image)
        depth = view.depthmap * 100
        depth[0, :5] = 65535
        trees.write_png16(folder / f"frames/depth/Camera_{camera}/depth_{frame:05d}.png", depth)
        extrinsic.append(f"{frame} {camera} {trees.row(trees.world_to_camera(view))}")
        matrix = view.intrinsics
        intrinsic.append(f"{frame} {camera} {trees.row(matrix[[0, 1, 0, 1], [0, 1, 2, 2]])}")
    trees.write_text(folder / "extrinsic.txt", "\n".join(extrinsic))
    trees.write_text(folder / "intrinsic.txt", "\n".join(intrinsic))
    return folder


def test_views_of_a_miniature(tmp_path: Path) -> None:
    written(tmp_path)
    dataset = open_pairs(Tree(tmp_path, subject="k"), VideoOptions(steps=(1,)))
    assert len(dataset) == 2
    views = trees.views()
    stereo = trees.pair_of(dataset, "Camera_0/rgb_00000.jpg", "Camera_1/rgb_00000.jpg")
    assert_same_pair(stereo, views[:2], depth_tolerance=0.0051, colour_tolerance=3)
    later = trees.pair_of(dataset, "Camera_0/rgb_00000.jpg", "Camera_0/rgb_00001.jpg")
    assert_same_pair(later, (views[0], replace(views[2])), depth_tolerance=0.0051, colour_tolerance=3)
    assert later[0].sky.sum() == 5
    assert not (later[0].sky & later[0].valid).any()
    assert later[0].is_metric


def test_a_frame_without_intrinsics(tmp_path: Path) -> None:
    folder = written(tmp_path)
    lines = (folder / "intrinsic.txt").read_text().splitlines()
    (folder / "intrinsic.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(InvalidInput, match="no line for frame 1 camera 0"):
        open_pairs(Tree(tmp_path, subject="k"), VideoOptions())
    (folder / "intrinsic.txt").write_text("\n".join([*lines[:-1], "1 0 nan 1 2 3"]))
    with pytest.raises(InvalidInput, match="a number is not finite"):
        open_pairs(Tree(tmp_path, subject="k"), VideoOptions())
    assert np.isfinite(trees.views()[0].depthmap).all()
