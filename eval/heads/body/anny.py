"""Anny (Apache-2.0, data included) as a body model: a free alternative to SMPL-X.

`pip install 'codistill[body]'`; the first construction takes minutes and writes some 800 MB to ~/.cache/anny, later
ones take a moment. Its topologies of SMPL and SMPL-X would be downloaded and are non-commercial: they are
not used here.

A head for Anny has one rotation for each bone and one shape number for each phenotype (gender, age, muscle ...):
sigmoid(number) is the phenotype in (0, 1), so zeros are the middle of each. Rotations are relative to the rest
pose, in axes aligned with the whole body (`local-ref`), z up, x to the side. Source: naver/anny.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eval.heads.body.base import padded_shape, triangles
from store.common.extras import missing_extra
from store.errors import InvalidInput, MissingExtra

HEAD_BONE = "head"
LEFT, RIGHT = ".L", ".R"
PARAMETERIZATION = "local-ref"


class Anny(nn.Module):
    """Anny with its compact rig, skinned by plain linear blending.

    Args:
        model: an `anny.Anny`; None builds the default one.

    Raises:
        MissingExtra: the package is not installed.
        InvalidInput: a rig without a bone named `head`.
    """

    expression_numbers = 0
    pelvis = 0

    def __init__(self, model: Any = None) -> None:
        super().__init__()
        self.model = _default_model() if model is None else model
        self.bones: list[str] = list(self.model.bone_labels)
        if HEAD_BONE not in self.bones:
            raise InvalidInput(f"body model Anny: no bone '{HEAD_BONE}' among {len(self.bones)}. Take the default rig")
        self.phenotypes: list[str] = list(self.model.phenotype_labels)
        self.rotations = len(self.bones)
        self.shape_numbers = len(self.phenotypes)
        self.head = self.bones.index(HEAD_BONE)
        self.mirrored = tuple(self.bones.index(name) for name in map(_other_side, self.bones))
        self.faces: np.ndarray = triangles(self.model.faces.detach().cpu().numpy())

    def forward(self, rotations: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Pose bodies with their root unrotated, in Anny's axes; see `eval.heads.body.base.BodyModel`.

        Args:
            rotations: (P, bones - 1, 3, 3).
            shape: (P, phenotypes), unbounded.
            expression: (P, 0), not used.
        """
        people = len(rotations)
        if not people:
            vertices = rotations.new_zeros(0, self.model.template_vertices.shape[0], 3)
            return vertices, rotations.new_zeros(0, self.rotations, 3)
        pose = torch.eye(4, device=rotations.device, dtype=rotations.dtype).repeat(people, self.rotations, 1, 1)
        pose[:, 1:, :3, :3] = rotations
        pose[:, 0, :3, :3] = self._root_at_rest(rotations)
        posed = self.model(
            pose_parameters=pose,
            phenotype_kwargs=dict(
                zip(self.phenotypes, padded_shape(shape, self.shape_numbers).sigmoid().T, strict=True)
            ),
            pose_parameterization=PARAMETERIZATION,
        )
        return posed["vertices"], posed["bone_poses"][:, :, :3, 3]

    def shape_of(self, phenotypes: Tensor) -> Tensor:
        """Return the shape numbers of phenotypes (P, S) in (0, 1)."""
        return phenotypes.logit(eps=1e-4)

    def _root_at_rest(self, like: Tensor) -> Tensor:
        """Return the delta that leaves the root as in the reference pose: the parameterisation takes it absolutely."""
        orientations = self.model.reference_bone_orientations
        return torch.eye(3).to(like) if orientations is None else orientations[0].to(like)


def _default_model() -> Any:
    try:
        import anny
    except ImportError as error:
        raise MissingExtra(missing_extra(error.name or "anny", program="eval") or str(error)) from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Fallback to lbs")
        return anny.Anny(skinning_method="lbs").float()  # made in float64


def _other_side(bone: str) -> str:
    if bone.endswith(LEFT):
        return bone.removesuffix(LEFT) + RIGHT
    return bone.removesuffix(RIGHT) + LEFT if bone.endswith(RIGHT) else bone
