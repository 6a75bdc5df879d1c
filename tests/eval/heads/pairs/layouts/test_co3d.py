"""Reader of co3d on a miniature that is written here in the public layout."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts.co3d import open_pairs
from eval.heads.pairs.layouts.options import ObjectOptions
from eval.heads.pairs.views import View
from store.errors import Damaged, InvalidInput
from tests.eval.heads.pairs import trees
from tests.eval.heads.pairs.room import SIZE, assert_same_pair

SCALE = 0.25
NEVER = ObjectOptions(steps=(1,), mask_background="never")


def viewpoint(view: View, form: str) -> dict[str, Any]:
    """A view as PyTorch3D has it: row vectors, x left, y up, normalised device coordinates."""
    inward = trees.world_to_camera(view)
    rotation, shift = inward[:3, :3].copy(), inward[:3, 3].copy()
    rotation[:2] *= -1
    shift[:2] *= -1
    units = [min(SIZE) / 2] * 2 if form == "ndc_isotropic" else [side / 2 for side in SIZE]
    matrix = view.intrinsics.astype(float)
    return {
        "R": rotation.T.tolist(),
        "T": shift.tolist(),
        "focal_length": [matrix[axis, axis] / units[axis] for axis in range(2)],
        "principal_point": [(SIZE[axis] / 2 - (matrix[axis, 2] + 0.5)) / units[axis] for axis in range(2)],
        "intrinsics_format": form,
    }


def annotations(root: Path, form: str) -> list[dict[str, Any]]:
    entries = []
    folder = "apple/110_13051_23361"
    for number, view in enumerate(trees.views()):
        stem = f"frame{number + 1:06d}"
        trees.write_image(root / folder / f"images/{stem}.jpg", view.image)
        stored = (view.depthmap / SCALE).astype(np.float16).view(np.uint16)
        trees.write_png16(root / folder / f"depths/{stem}.jpg.geometric.png", stored)
        known = np.full(view.depthmap.shape, 255, dtype=np.uint8)
        known[:2] = 0
        trees.write_image(root / folder / f"depth_masks/{stem}.png", known)
        entries.append(
            {
                "sequence_name": "110_13051_23361",
                "frame_number": 2 - number,  # not the number in the name, and not the order
                "frame_timestamp": 0.1,
                "image": {"path": f"{folder}/images/{stem}.jpg", "size": [SIZE[1], SIZE[0]]},
                "depth": {
                    "path": f"{folder}/depths/{stem}.jpg.geometric.png",
                    "scale_adjustment": SCALE,
                    "mask_path": f"{folder}/depth_masks/{stem}.png",
                },
                "mask": None,
                "viewpoint": viewpoint(view, form),
            }
        )
    return entries


def write_annotations(root: Path, entries: Any) -> None:
    (root / "apple/frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(entries).encode()))


@pytest.mark.parametrize("form", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_views_of_a_miniature(tmp_path: Path, form: str) -> None:
    entries = annotations(tmp_path, form)
    write_annotations(tmp_path, [*entries, {**entries[0], "frame_number": 9, "viewpoint": None}])
    dataset = open_pairs(Tree(tmp_path, subject="c"), NEVER)
    assert len(dataset) == 2
    found = trees.pair_of(dataset, "frame000002.jpg", "frame000001.jpg")
    views = trees.views()
    assert_same_pair(found, (views[1], views[0]), depth_tolerance=0.003, colour_tolerance=3)
    assert not found[0].valid[:2].any()
    assert not found[0].is_metric


def test_annotations_that_are_not_as_documented(tmp_path: Path) -> None:
    entries = annotations(tmp_path, "ndc_isotropic")
    tree = Tree(tmp_path, subject="c")
    without = {key: value for key, value in entries[0]["viewpoint"].items() if key != "focal_length"}
    write_annotations(tmp_path, [{**entries[0], "viewpoint": without}])
    with pytest.raises(InvalidInput, match="focal_length"):
        open_pairs(tree, NEVER)
    write_annotations(tmp_path, [{**entries[0], "viewpoint": {**entries[0]["viewpoint"], "intrinsics_format": "mm"}}])
    with pytest.raises(InvalidInput, match="intrinsics_format 'mm'"):
        open_pairs(tree, NEVER)
    write_annotations(tmp_path, {"frames": []})
    with pytest.raises(InvalidInput, match="expected a list of frames"):
        open_pairs(tree, NEVER)
    outside = {**entries[0], "image": {**entries[0]["image"], "path": "../secret.jpg"}}
    (tmp_path.parent / "secret.jpg").touch()
    write_annotations(tmp_path, [outside, *entries[1:]])
    dataset = open_pairs(tree, NEVER)
    with pytest.raises(InvalidInput, match="outside the root"):
        trees.pair_of(dataset, "frame000002.jpg", "secret.jpg")
    (tmp_path / "apple/frame_annotations.jgz").write_bytes(gzip.compress(b"[]" * 50)[:20])
    with pytest.raises(Damaged, match="not a whole gzip file"):
        open_pairs(tree, NEVER)
