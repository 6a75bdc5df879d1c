"""The human perception head against the authors' numbers, alone and through its public interface."""

from typing import Any

import pytest
import torch
from torch import Tensor

from eval.heads import hph
from eval.heads.body import rotations
from eval.heads.hph import camera, detection, files
from eval.heads.hph.head import PerceptionHead
from eval.heads.hph.sizes import HeadSizes
from store.errors import InvalidInput, MissingName
from tests.eval.heads.hph import golden

TOLERANCE = {"rotmat": 1e-4, "rotvec": 1e-4, "j2d": 2e-3, "v2d": 2e-3}  # others 5e-5


@pytest.fixture(scope="module")
def head() -> PerceptionHead:
    torch.set_num_threads(1)
    return hph.load(golden.WEIGHTS, **golden.SIZES)


def close(found: Tensor, expected: Tensor, name: str) -> bool:
    torch.testing.assert_close(found, expected, atol=TOLERANCE.get(name, 5e-5), rtol=1e-5, msg=lambda m: f"{name}: {m}")
    return True


@torch.no_grad()
def test_people_equal_the_golden(head: PerceptionHead) -> None:
    io = golden.numbers()
    people = head(io["input.tokens"], io["input.K"], body=golden.linear_body())
    assert torch.equal(people.idx_image_row_col, io["output.idx_image_row_col"].long())
    assert all(close(people[name], io[f"output.{name}"], name) for name in people.keys()[1:])
    assert len(people.keys()) == 16
    close(people.score_map, io["output.scores_raw"], "scores_raw")
    close(detection.non_maximum_suppression(people.score_map), io["output.scores_after_nms"], "scores_after_nms")
    person = list(people)[3]
    assert torch.equal(person["loc"], people["loc"][3])
    assert torch.equal(person.scores, people.scores_detected[3])
    assert [len(people.of_image(image)) for image in range(3)] == [5, 0, 7]


@torch.no_grad()
def test_given_cells_equal_the_golden(head: PerceptionHead) -> None:
    io = golden.numbers()
    people = head(io["input.tokens"], io["input.K"], cells=io["input.train.idx_image_row_col"])
    names = [name.removeprefix("output.train.") for name in io if name.startswith("output.train.")]
    assert all(close(people[name], io[f"output.train.{name}"], name) for name in names)
    assert len(names) == 8


@torch.no_grad()
def test_images_do_not_disturb_each_other(head: PerceptionHead) -> None:
    io = golden.numbers()
    together = head(io["input.tokens"], io["input.K"])
    alone = [head(io["input.tokens"][i : i + 1], io["input.K"][i]) for i in range(3)]
    close(torch.cat([people.rotmat for people in alone]), together.rotmat, "rotmat")
    assert [len(people) for people in alone] == [5, 0, 7]
    assert alone[1].rotmat.shape == (0, 53, 3, 3)
    assert list(alone[1]) == []


def test_rays_rotations_and_suppression() -> None:
    io = golden.numbers()
    close(camera.camera_embedding(io["input.K"][:1], 8)[0], io["output.camera_embedding_img0"], "embedding")
    for kernel in (2, 3, 4, 5):
        kept = detection.non_maximum_suppression(io["input.nms.heat"][0], kernel)
        assert torch.equal(kept, io[f"output.nms.kernel{kernel}"][0])
    cells = detection.detect(io["input.nms.heat"][0], threshold=0.5)
    assert torch.equal(cells, io["output.nms.kernel3_idx_ge_0.5"].long())
    matrices = rotations.from_6d(io["input.rot6d"])
    close(matrices, io["output.rot6d_matrix"], "rotmat")
    close(rotations.from_vector(rotations.to_vector(matrices)), matrices, "rotmat")
    close(rotations.to_vector(matrices), io["output.rot6d_rotvec"], "rotvec")


def test_distances_equal_the_golden() -> None:
    io = golden.numbers()
    depth, focal = io["input.depth"][1:], io["input.focal"][1:]
    y = camera.log_from_distance(depth, focal, img_size=672)
    close(y, io["output.depth_target_img672"], "y")
    close(camera.distance_from_log(y, focal, img_size=672), io["output.depth_back"], "dist")


@pytest.mark.parametrize(("name", "channels"), [("multiHMR_672_L.head.txt", 1024), ("dune_vitbase_672.head.txt", 768)])
def test_full_size_tensors_are_those_of_the_released_files(name: str, channels: int) -> None:
    head = files.build(HeadSizes(embed_dim=channels, img_size=672), meta=True)
    shapes = [f"{key} {'x'.join(map(str, tensor.shape))}" for key, tensor in head.state_dict().items()]
    assert shapes == golden.keys(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(3, 63, 32)}, r"expected \(B, 64, 32\) of an image of 112 px, found \(3, 63, 32\)"),
        ({"tokens": torch.zeros(3, 69, 32)}, "found"),
        ({"tokens": torch.full((3, 64, 32), float("nan"))}, "NaN or infinity"),
        ({"intrinsics": None}, "found none"),
        ({"intrinsics": torch.eye(3).expand(2, 3, 3)}, r"expected \(3, 3, 3\)"),
        ({"intrinsics": -torch.eye(3)}, "positive focal lengths"),
        ({"cells": torch.tensor([[0, 8, 0]])}, "rows and columns below 8"),
        ({"cells": torch.tensor([[1, 0, 0], [0, 0, 0]])}, "images in order"),
        ({"cells": torch.tensor([[0, 1, 1], [0, 1, 1]])}, "given twice"),
        ({"nms_kernel": 0}, "1 to 15 cells"),
    ],
)
def test_input_that_does_not_fit_is_refused(head: PerceptionHead, change: dict[str, Any], message: str) -> None:
    io = golden.numbers()
    arguments = {"tokens": io["input.tokens"], "intrinsics": io["input.K"], **change}
    with pytest.raises(InvalidInput, match=message):
        head(arguments.pop("tokens"), arguments.pop("intrinsics"), **arguments)


@torch.no_grad()
def test_meshes_without_a_body_model_are_a_clear_error(head: PerceptionHead) -> None:
    people = head(golden.numbers()["input.tokens"], golden.numbers()["input.K"])
    with pytest.raises(MissingName, match="'v3d': expected one of"):
        people["v3d"]
    with pytest.raises(IndexError, match="person 12 of 12"):
        people[12]
