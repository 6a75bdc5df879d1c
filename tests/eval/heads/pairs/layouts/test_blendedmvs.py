"""Reader of blendedmvs on a miniature that is written here in the public layout."""

from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.blendedmvs import open_pairs
from eval.heads.pairs.layouts.options import Options
from store.errors import InvalidInput, MissingFile
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import assert_same_pair

UNIT = 0.37  # metres of the room in a unit of the dataset, which has no scale


def written(root: Path) -> Path:
    scene = root / "5b6e716d67b396324c2d77cb"
    for number, view in enumerate(trees.views()):
        inward = trees.world_to_camera(view)
        inward[:3, 3] /= UNIT
        trees.write_image(scene / f"blended_images/{number:08d}.jpg", view.image)
        trees.write_image(scene / f"blended_images/{number:08d}_masked.jpg", view.image)
        (scene / "rendered_depth_maps").mkdir(exist_ok=True)
        depth = (view.depthmap / UNIT)[::-1].astype("<f4")
        (scene / f"rendered_depth_maps/{number:08d}.pfm").write_bytes(b"Pf\n64 48\n-1.000000\n" + depth.tobytes())
        matrices = ["\n".join(trees.row(line) for line in matrix) for matrix in (inward, view.intrinsics)]
        text = f"extrinsic\n{matrices[0]}\n\nintrinsic\n{matrices[1]}\n\n0.5 0.01 128 9.0\n"
        trees.write_text(scene / f"cams/{number:08d}_cam.txt", text)
    trees.write_text(scene / "cams/pair.txt", "3\n0\n2 1 10.5 2 3.25\n1\n1 0 10.5\n2\n0\n")
    (root / "BlendedMVS_list.txt").write_text(scene.name)
    return scene


def test_views_of_a_miniature(tmp_path: Path) -> None:
    written(tmp_path)
    dataset = open_pairs(Tree(tmp_path, subject="b"), Options())
    assert dataset.pairs.tolist() == [[0, 1], [0, 2]]
    assert not dataset.is_metric
    found = dataset.pair(0, np.random.default_rng(0))
    assert_same_pair(found, trees.views()[:2], scale=UNIT, colour_tolerance=3)
    assert found[0].label == "5b6e716d67b396324c2d77cb"


def test_files_that_are_not_as_documented(tmp_path: Path) -> None:
    scene = written(tmp_path)
    (scene / "cams/00000001_cam.txt").write_text("extrinsic\n1 0 0 0\n")
    with pytest.raises(InvalidInput, match="expected 'extrinsic' and 4 lines"):
        open_pairs(Tree(tmp_path, subject="b"), Options())
    (scene / "cams/00000001_cam.txt").unlink()
    with pytest.raises(MissingFile, match="00000001_cam"):
        open_pairs(Tree(tmp_path, subject="b"), Options())
    (scene / "cams/pair.txt").write_text("3\n0\n10 1 10.5\n")
    with pytest.raises(InvalidInput, match="ends early"):
        open_pairs(Tree(tmp_path, subject="b"), Options())
