"""Reader of arkitscenes on a miniature that is written here in the public layout."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.arkitscenes import ARKitScenesOptions, open_pairs, rotation_of
from store.errors import MissingFile
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import SIZE, assert_same_pair

VIDEO = "47333462"
TIMES = 100.014, 100.114, 100.214


def written(root: Path, *, images: str, depths: str, factor: int) -> None:
    folder = root / "raw/Training" / VIDEO
    lines = []
    for time, view in zip(TIMES, trees.views(), strict=True):
        matrix = view.intrinsics
        camera = f"{SIZE[0]} {SIZE[1]} {trees.row(matrix[[0, 1, 0, 1], [0, 1, 2, 2]])}"
        trees.write_image(folder / f"{images}/{VIDEO}_{time:.3f}.png", view.image)
        trees.write_text(folder / f"{images}_intrinsics/{VIDEO}_{time - 0.001:.3f}.pincam", camera)
        depth = view.depthmap[factor // 2 :: factor, factor // 2 :: factor]
        trees.write_png16(folder / f"{depths}/{VIDEO}_{time + 0.001:.3f}.png", depth * 1000)
        inward = trees.world_to_camera(view)
        rotation = Rotation.from_matrix(inward[:3, :3]).as_rotvec()
        lines.append(f"{time + 0.02:.6f} {trees.row(rotation)} {trees.row(inward[:3, 3])}")
    trees.write_image(folder / f"{images}/{VIDEO}_300.000.png", trees.views()[0].image)  # without a pose
    trees.write_text(folder / "lowres_wide.traj", "\n".join(lines))


@pytest.mark.parametrize(
    ("choice", "images", "depths"),
    [("lowres", "lowres_wide", "lowres_depth"), ("wide", "wide", "highres_depth")],
)
def test_views_of_a_miniature(tmp_path: Path, choice: str, images: str, depths: str) -> None:
    written(tmp_path, images=images, depths=depths, factor=1)
    options = ARKitScenesOptions.model_validate({"images": choice, "steps": (1,)})
    dataset = open_pairs(Tree(tmp_path, subject="a"), options)
    assert len(dataset) == 2
    assert_same_pair(dataset.pair(0, np.random.default_rng(0)), trees.views()[:2], depth_tolerance=0.00051)
    assert dataset.is_metric


def test_depth_is_enlarged_for_vga_images(tmp_path: Path) -> None:
    written(tmp_path, images="vga_wide", depths="lowres_depth", factor=4)
    found, _ = open_pairs(Tree(tmp_path, subject="a"), ARKitScenesOptions(steps=(1,))).pair(0, np.random.default_rng(0))
    true = trees.views()[0]
    assert found.depthmap.shape == true.depthmap.shape
    assert np.median(np.abs(found.depthmap / true.depthmap - 1)) < 0.02
    assert np.abs(found.depthmap - true.depthmap)[2::4, 2::4].max() < 0.00051


def test_images_without_poses_make_no_pairs(tmp_path: Path) -> None:
    written(tmp_path, images="vga_wide", depths="lowres_depth", factor=4)
    with pytest.raises(MissingFile, match="no pairs below"):
        open_pairs(Tree(tmp_path, subject="a"), ARKitScenesOptions(images="wide"))


def test_rotation_vectors() -> None:
    for vector in ((0.3, -0.2, 1.1), (0.0, 0.0, 0.0), (3.0, 0.1, 0.0)):
        np.testing.assert_allclose(rotation_of(np.array(vector)), Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
