"""The adapter of Anny, on a stand-in of two bones a side: the package itself takes minutes to construct."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.heads.body.anny import Anny
from store.errors import InvalidInput


class TinyAnny(torch.nn.Module):
    """What the adapter uses of `anny.Anny`."""

    bone_labels = ("root", "arm.L", "arm.R", "head")
    phenotype_labels = ("gender", "age")
    template_vertices = torch.zeros(5, 3)
    faces = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    reference_bone_orientations = torch.diag(torch.tensor([1.0, -1, -1])).expand(4, 3, 3)

    def forward(self, **given: Any) -> dict[str, Tensor]:
        self.given = SimpleNamespace(**given)
        people = len(given["pose_parameters"])
        return {"vertices": torch.zeros(people, 5, 3), "bone_poses": torch.zeros(people, 4, 4, 4)}


def test_rotations_and_phenotypes_reach_anny() -> None:
    model = TinyAnny()
    body = Anny(model)
    rotations = torch.linalg.qr(torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)))[0]
    vertices, joints = body(rotations, torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.zeros(2, 0))
    assert (vertices.shape, joints.shape) == ((2, 5, 3), (2, 4, 3))
    assert torch.equal(model.given.pose_parameters[:, 1:, :3, :3], rotations)
    assert torch.equal(model.given.pose_parameters[0, 0, :3, :3], model.reference_bone_orientations[0])
    assert model.given.pose_parameterization == "local-ref"
    torch.testing.assert_close(model.given.phenotype_kwargs["age"], torch.tensor([0.8807971, 0.5]))
    torch.testing.assert_close(body.shape_of(torch.tensor([[0.5, 0.8807971]])), torch.tensor([[0.0, 2.0]]))
    assert (body.mirrored, body.head, body.pelvis) == ((0, 2, 1, 3), 3, 0)
    assert body.faces.tolist() == [[0, 1, 2], [1, 2, 3], [0, 2, 3], [1, 3, 4]]
    assert body(rotations[:0], torch.zeros(0, 2), torch.zeros(0, 0))[0].shape == (0, 5, 3)


def test_a_rig_without_a_head_is_refused() -> None:
    model = TinyAnny()
    model.bone_labels = ("root", "arm.L", "arm.R", "neck")
    with pytest.raises(InvalidInput, match="no bone 'head' among 4"):
        Anny(model)
