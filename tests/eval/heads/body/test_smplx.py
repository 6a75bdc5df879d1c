"""SMPL-X read from the user's file, against matrices multiplied one by one; its file checked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.heads.body import base, rotations
from eval.heads.body.smplx import SmplX
from store.errors import Damaged, InvalidInput, MissingFile, UnsafeFile
from tests.eval.heads.body import tiny_smplx

MODEL_ORDER = (*range(1, 22), 52, -1, -1, *range(22, 52))  # rotation of the head's order for each joint but the root


def one_by_one(vectors: torch.Tensor, shape: np.ndarray, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose one body in float64 with 4 x 4 matrices."""
    model = tiny_smplx.arrays()
    turned = rotations.from_vector(vectors.double()).numpy()
    local = [np.eye(3), *(np.eye(3) if place < 0 else turned[place - 1] for place in MODEL_ORDER)]
    vertices = (
        model["v_template"] + model["shapedirs"][:, :, :11] @ shape + model["shapedirs"][:, :, 300:310] @ expression
    )
    joints = model["J_regressor"] @ vertices
    bent = np.concatenate([(matrix - np.eye(3)).ravel() for matrix in local[1:]])
    vertices = vertices + model["posedirs"] @ bent
    world: list[np.ndarray] = []
    for joint, parent in enumerate(tiny_smplx.PARENTS):
        matrix = np.eye(4)
        matrix[:3, :3] = local[joint]
        matrix[:3, 3] = joints[joint] - (joints[parent] if joint else 0)
        world.append(world[parent] @ matrix if joint else matrix)
    posed = np.zeros_like(vertices)
    for vertex, weights in enumerate(model["weights"]):
        for joint, weight in enumerate(weights):
            posed[vertex] += weight * (world[joint][:3, :3] @ (vertices[vertex] - joints[joint]) + world[joint][:3, 3])
    return posed, np.stack([matrix[:3, 3] for matrix in world])


def test_bodies_equal_matrices_multiplied_one_by_one(tmp_path: Path) -> None:
    body = SmplX(tiny_smplx.write(tmp_path / "SMPLX_NEUTRAL.npz"))
    torch.manual_seed(0)
    vectors, shape, expression = torch.randn(2, 52, 3), torch.randn(2, 11), torch.randn(2, 10)
    vertices, joints = body(rotations.from_vector(vectors), shape, expression)
    for person in range(2):
        expected = one_by_one(vectors[person], shape[person].double().numpy(), expression[person].double().numpy())
        np.testing.assert_allclose(vertices[person], expected[0], atol=2e-5)
        np.testing.assert_allclose(joints[person], expected[1], atol=2e-5)


def test_a_body_stands_where_its_head_or_its_shift_says(tmp_path: Path) -> None:
    body = SmplX(tiny_smplx.write(tmp_path / "SMPLX_NEUTRAL.npz"))
    torch.manual_seed(0)
    rotmat, shape = rotations.from_vector(torch.randn(1, 53, 3)), torch.randn(1, 10)
    place = torch.tensor([[1.0, 2.0, 3.0]])
    numbers = {"rotmat": rotmat, "shape": shape, "expression": torch.zeros(1, 10)}
    at_head = base.place(body, **numbers, head=place)
    torch.testing.assert_close(at_head.joints[:, 15], place)
    rest = body(rotmat[:, 1:], shape, torch.zeros(1, 10))
    shifted = base.place(body, **numbers, head=None, shift=place)
    torch.testing.assert_close(shifted.joints[:, 0], rest[1][:, 0] + place)
    expected = (rest[0] - rest[1][:, :1]) @ rotmat[:, 0].transpose(1, 2)
    torch.testing.assert_close(shifted.vertices - shifted.pelvis, expected)
    torch.testing.assert_close(at_head.vertices - at_head.pelvis, expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_rotations_and_shape_at_rest(tmp_path: Path) -> None:
    body = SmplX(tiny_smplx.write(tmp_path / "SMPLX_NEUTRAL.npz"))
    vectors = torch.zeros(1, 52, 3, requires_grad=True)
    shape = torch.zeros(1, 10, requires_grad=True)
    vertices, _ = body(rotations.from_vector(vectors), shape, torch.zeros(1, 10))
    vertices.square().sum().backward()
    assert vectors.grad is not None
    assert shape.grad is not None
    assert bool((vectors.grad.abs().sum(-1) > 0).all())
    assert bool(vectors.grad.isfinite().all())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"posedirs": None}, InvalidInput, "no arrays posedirs; it has"),
        ({"weights": np.ones((24, 24))}, InvalidInput, r"weights has shape \(24, 24\), expected \(24, 55\)"),
        ({"f": np.array([[0, 1, 24]])}, InvalidInput, "f names vertices beyond 24"),
        ({"v_template": np.full((24, 3), np.nan)}, InvalidInput, "expected finite numbers in v_template"),
        ({"kintree_table": np.zeros((2, 55)) + 60}, InvalidInput, "a joint comes before its parent"),
        ({"weights": np.array([{}], dtype=object)}, UnsafeFile, "nothing is unpickled"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    path = tiny_smplx.write(tmp_path / "model.npz", **changes)
    with pytest.raises(error, match=message):
        SmplX(path)


def test_missing_and_cut_files_are_told(tmp_path: Path) -> None:
    path = tiny_smplx.write(tmp_path / "model.npz")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Damaged, match="not a whole"):
        SmplX(path)
    with pytest.raises(MissingFile, match="No such file"):
        SmplX(tmp_path / "none.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InvalidInput, match="found a single array"):
        SmplX(tmp_path / "array.npy")
