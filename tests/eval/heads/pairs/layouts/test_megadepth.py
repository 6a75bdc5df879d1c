"""Reader of megadepth on a miniature that is written here in the public layout."""

from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.megadepth import MegaDepthOptions, open_pairs
from store.errors import InvalidInput
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import SIZE, assert_same_pair

POINTS = ("1 2 3 4 5 6 7 8", "5 6 7 8 9 10 11 12", "8 20 21 22 23 24 25 26 27 28 29 30")


def written(root: Path, model: str) -> Path:
    h5py = pytest.importorskip("h5py")
    folder = root / "0015/dense0"
    cameras, images = ["# cameras"], ["# images"]
    for number, (view, points) in enumerate(zip(trees.views(), POINTS, strict=True)):
        name = f"{number}_o.jpg"
        trees.write_image(folder / f"imgs/{name}", view.image)
        (folder / "depths").mkdir(exist_ok=True)
        with h5py.File(folder / f"depths/{number}_o.h5", "w") as file:
            file["depth"] = view.depthmap
        fx, fy, cx, cy = view.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
        full = trees.row(np.array([2 * fx, 2 * fy, 2 * cx + 1, 2 * cy + 1]))  # of the image before it was halved
        cameras.append(f"{number} PINHOLE {2 * SIZE[0]} {2 * SIZE[1]} {full}")
        inward = trees.world_to_camera(view)
        rotation = trees.row(trees.quaternion(inward[:3, :3], first="w"))
        images.append(f"{number} {rotation} {trees.row(inward[:3, 3])} {number} {name}")
        images.append(" ".join(f"1.0 2.0 {point}" for point in points.split()))
    trees.write_text(root / model / "cameras.txt", "\n".join(cameras) + "\n")
    trees.write_text(root / model / "images.txt", "\n".join(images) + "\n")
    return folder


@pytest.mark.parametrize("model", ["0015/dense0/sparse", "Undistorted_SfM/0015/sparse"])
def test_views_of_a_miniature(tmp_path: Path, model: str) -> None:
    written(tmp_path, model)
    dataset = open_pairs(Tree(tmp_path, subject="m"), MegaDepthOptions())
    assert dataset.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert_same_pair(trees.pair_of(dataset, "0_o.jpg", "1_o.jpg"), trees.views()[:2], colour_tolerance=3)
    assert not dataset.is_metric
    few = open_pairs(Tree(tmp_path, subject="m"), MegaDepthOptions(least_shared=0.3))
    assert few.pairs.tolist() == [[0, 1]]  # half of their points are common
    with pytest.raises(FileNotFoundError, match="no pairs below"):
        open_pairs(Tree(tmp_path, subject="m"), MegaDepthOptions(least_shared=0.6))


def test_an_ordering_instead_of_depth(tmp_path: Path) -> None:
    folder = written(tmp_path, "0015/dense0/sparse")
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "depths/0_o.h5", "w") as file:
        file["depth"] = np.full((SIZE[1], SIZE[0]), -1.0)
    dataset = open_pairs(Tree(tmp_path, subject="m"), MegaDepthOptions())
    with pytest.raises(InvalidInput, match="an ordering, not a depth map"):
        trees.pair_of(dataset, "0_o.jpg", "1_o.jpg")
