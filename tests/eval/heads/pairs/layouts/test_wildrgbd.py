"""Reader of wildrgbd on a miniature that is written here in the public layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.options import ObjectOptions
from eval.heads.pairs.layouts.wildrgbd import open_pairs
from store.errors import InvalidInput
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import SIZE, assert_same_pair, room_views

CAMERA = 58.0, 59.0, 30.5, 24.5


def written(root: Path) -> Path:
    folder = root / "apple/scenes/scene_000"
    lines = []
    for number, view in enumerate(room_views(intrinsics=CAMERA)):
        trees.write_image(folder / f"rgb/{number:05d}.png", view.image)
        trees.write_png16(folder / f"depth/{number:05d}.png", view.depthmap * 1000)
        mask = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
        mask[10:30, 20:50] = 255
        trees.write_image(folder / f"masks/{number:05d}.png", mask)
        lines.append(f"{number} {trees.row(view.camera_pose)}")
    trees.write_text(folder / "cam_poses.txt", "\n".join(lines))
    matrix = room_views(intrinsics=CAMERA)[0].intrinsics.T.ravel().tolist()  # column by column
    trees.write_text(folder / "metadata", json.dumps({"w": SIZE[0], "h": SIZE[1], "K": matrix}))
    return folder


def test_views_of_a_miniature(tmp_path: Path) -> None:
    written(tmp_path)
    dataset = open_pairs(Tree(tmp_path, subject="w"), ObjectOptions(steps=(1, 2), mask_background="never"))
    assert len(dataset) == 3
    found = trees.pair_of(dataset, "00000.png", "00001.png")
    assert_same_pair(found, room_views(intrinsics=CAMERA)[:2], depth_tolerance=0.00051)
    assert found[0].is_metric


def test_the_background_is_masked_by_chance(tmp_path: Path) -> None:
    written(tmp_path)
    known = {
        choice: {
            float(
                open_pairs(Tree(tmp_path, subject="w"), ObjectOptions(steps=(1,), mask_background=choice))
                .pair(0, np.random.default_rng(seed))[0]
                .valid.mean()
            )
            for seed in range(12)
        }
        for choice in ("never", "random", "always")
    }
    inside = 20 * 30 / (SIZE[0] * SIZE[1])
    assert known == {"never": {1.0}, "random": {1.0, inside}, "always": {inside}}


def test_missing_intrinsics(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "metadata").write_text('{"w": 64, "h": 48}')
    with pytest.raises(InvalidInput, match="no intrinsics"):
        open_pairs(Tree(tmp_path, subject="w"), ObjectOptions())
    (folder / "metadata").write_text('{"w": 64, "h": 48, "K": [1, 2, 3]}')
    with pytest.raises(InvalidInput, match="expected 9 numbers, found 3"):
        open_pairs(Tree(tmp_path, subject="w"), ObjectOptions())
