"""Reader of mapfree on a miniature that is written here in the public layout."""

from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.mapfree import MapFreeOptions, open_pairs
from store.errors import InvalidInput, MissingFile
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import SIZE, assert_same_pair

FRAMES = ("seq0/frame_00000", "seq1/frame_00005", "seq1/frame_00012")  # numbers may have gaps
DEPTH = "{frame}.mvs.png"


def written(root: Path, split: str) -> Path:
    scene = root / split / "s00012"
    poses, cameras = ["# poses"], []
    for name, view in zip(FRAMES, trees.views(), strict=True):
        trees.write_image(scene / f"{name}.jpg", view.image)
        trees.write_png16(scene / f"{name}.mvs.png", view.depthmap * 1000)
        inward = trees.world_to_camera(view)
        rotation = trees.row(trees.quaternion(inward[:3, :3], first="w"))
        poses.append(f"{name}.jpg {rotation} {trees.row(inward[:3, 3])}")
        camera = trees.row(view.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]])
        cameras.append(f"{name}.jpg {camera} {SIZE[0]} {SIZE[1]}")
    trees.write_text(scene / "poses.txt", "\n".join(poses))
    trees.write_text(scene / "intrinsics.txt", "\n".join(cameras))
    if split == "train":
        numbered = np.array([[0, 0, 1, 5], [1, 5, 0, 0], [0, 0, 1, 12], [1, 5, 1, 12]], dtype=np.uint16)
        np.savez(scene / "overlaps.npz", idxs=numbered, overlaps=np.array([0.5, 0.5, 0.1, 0.9]))
    return scene


def test_pairs_of_train_have_the_wanted_overlap(tmp_path: Path) -> None:
    written(tmp_path, "train")
    dataset = open_pairs(Tree(tmp_path, subject="m"), MapFreeOptions(depth=DEPTH))
    assert len(dataset) == 1
    found = trees.pair_of(dataset, f"{FRAMES[0]}.jpg", f"{FRAMES[1]}.jpg")
    assert_same_pair(found, trees.views()[:2], depth_tolerance=0.00051, colour_tolerance=3)
    assert found[0].is_metric


def test_pairs_of_val_are_the_reference_and_each_query(tmp_path: Path) -> None:
    written(tmp_path, "val")
    dataset = open_pairs(Tree(tmp_path, subject="m"), MapFreeOptions(split="val", depth=DEPTH))
    assert dataset.pairs.tolist() == [[0, 1], [0, 2]]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    scene = written(tmp_path, "train")
    tree = Tree(tmp_path, subject="m")
    with pytest.raises(MissingFile, match=r"none of 3 frames .* The dataset has none of its own"):
        open_pairs(tree, MapFreeOptions(depth="{frame}.npy"))
    (scene / "intrinsics.txt").write_text(f"{FRAMES[0]}.jpg 1 1 1 1 64 48\n")
    with pytest.raises(InvalidInput, match=r"frame_00005\.jpg: no line in intrinsics\.txt"):
        open_pairs(tree, MapFreeOptions(depth=DEPTH))
