"""Reader of tartanair on a miniature that is written here in the public layout."""

from pathlib import Path

import numpy as np

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.options import VideoOptions
from eval.heads.pairs.layouts.tartanair import open_pairs
from eval.heads.pairs.views import View
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import assert_same_pair, room_views

CAMERA = trees.scaled_camera((320, 320, 320, 240), (640, 480))


def ned_line(view: View) -> str:
    """`tx ty tz qx qy qz qw` of a camera whose frame is x forward, y right, z down."""
    pose = view.camera_pose.astype(np.float64)
    right, down, forward = pose[:3, :3].T
    rotation = np.stack([forward, right, down], axis=1)
    return f"{trees.row(pose[:3, 3])} {trees.row(trees.quaternion(rotation, first='x'))}"


def test_views_of_a_miniature(tmp_path: Path) -> None:
    views = room_views(intrinsics=CAMERA)
    folder = tmp_path / "abandonedfactory/Easy/P000"
    for side, shown in (("left", views[:2]), ("right", views[2:])):
        trees.write_text(folder / f"pose_{side}.txt", "\n".join(ned_line(view) for view in shown) + "\n")
        for number, view in enumerate(shown):
            trees.write_image(folder / f"image_{side}/{number:06d}_{side}.png", view.image)
            (folder / f"depth_{side}").mkdir(exist_ok=True)
            depth = view.depthmap.copy()
            depth[0, :3] = 10000
            np.save(folder / f"depth_{side}/{number:06d}_{side}_depth.npy", depth)
    dataset = open_pairs(Tree(tmp_path, subject="t"), VideoOptions(steps=(1,)))
    assert len(dataset) == 2
    assert_same_pair(trees.pair_of(dataset, "000000_left.png", "000001_left.png"), views[:2])
    stereo = trees.pair_of(dataset, "000000_left.png", "000000_right.png")
    assert_same_pair(stereo, (views[0], views[2]))
    assert stereo[0].sky.sum() == 3
    assert stereo[0].is_metric
