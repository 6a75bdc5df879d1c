"""Reader of scannetpp on a miniature that is written here in the public layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.scannetpp import ScanNetPPOptions, open_pairs
from store.errors import InvalidInput
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import SIZE, assert_same_pair, room_views

CAMERA = 58.0, 59.0, 30.5, 24.5
SCENE = "data/036bce3393"


def test_views_of_the_phone(tmp_path: Path) -> None:
    folder = tmp_path / SCENE / "iphone"
    content = {}
    for number, view in enumerate(trees.views()):
        key = f"frame_{number * 10:06d}"
        trees.write_image(folder / f"rgb/{key}.jpg", view.image)
        trees.write_png16(folder / f"depth/{key}.png", view.depthmap[1::2, 1::2] * 1000)
        pose = view.camera_pose.tolist()
        content[key] = {"timestamp": 0.1, "pose": np.eye(4).tolist(), "aligned_pose": pose}
        content[key]["intrinsic"] = view.intrinsics.tolist()
    content["frame_000005"] = content["frame_000000"]  # of the video, not extracted
    trees.write_text(folder / "pose_intrinsic_imu.json", json.dumps(content))
    dataset = open_pairs(Tree(tmp_path, subject="s"), ScanNetPPOptions(steps=(1,)))
    assert len(dataset) == 2
    found = trees.pair_of(dataset, "frame_000000.jpg", "frame_000010.jpg")
    assert_same_pair(found, trees.views()[:2], depth_tolerance=3.0, colour_tolerance=3)
    difference = np.abs(found[0].depthmap - trees.views()[0].depthmap)
    assert difference[1::2, 1::2].max() < 0.00051
    del content["frame_000000"]["intrinsic"]
    trees.write_text(folder / "pose_intrinsic_imu.json", json.dumps(content))
    with pytest.raises(InvalidInput, match="Are intrinsics missing"):
        open_pairs(Tree(tmp_path, subject="s"), ScanNetPPOptions())


def test_views_of_the_camera(tmp_path: Path) -> None:
    folder = tmp_path / SCENE / "dslr"
    views = room_views(intrinsics=CAMERA)
    fx, fy, cx, cy = CAMERA
    frames = []
    for number, view in enumerate(views):
        trees.write_image(folder / f"undistorted_images/DSC0000{number}.JPG", view.image)
        trees.write_png16(folder / f"undistorted_depths/DSC0000{number}.png", view.depthmap * 1000)
        pose = view.camera_pose.astype(float)
        pose[:3, 1:3] *= -1  # y up, looking along -z ...
        pose = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]) @ pose  # ... in nerfstudio's world
        frames.append({"file_path": f"DSC0000{number}.JPG", "transform_matrix": pose.tolist(), "is_bad": False})
    frames.append({**frames[0], "file_path": "DSC00009.JPG", "is_bad": True})
    content = {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5, "w": SIZE[0], "h": SIZE[1], "frames": frames}
    trees.write_text(folder / "nerfstudio/transforms_undistorted.json", json.dumps(content))
    dataset = open_pairs(Tree(tmp_path, subject="s"), ScanNetPPOptions(camera="dslr", steps=(1, 2)))
    assert len(dataset) == 3
    found = trees.pair_of(dataset, "DSC00000.JPG", "DSC00001.JPG")
    assert_same_pair(found, views[:2], depth_tolerance=0.00051, colour_tolerance=3)
    assert found[0].is_metric
    (folder / "undistorted_depths/DSC00000.png").unlink()
    trees.write_png16(folder / "undistorted_depths/DSC00000.png", views[0].depthmap[::2])
    with pytest.raises(InvalidInput, match="depth of 64 x 24 px, but the image has 64 x 48"):
        trees.pair_of(dataset, "DSC00000.JPG", "DSC00001.JPG")
