"""The interface of body models, and how a body stands in front of a camera.

Shapes: P people, J rotations (root first), S shape and E expression numbers, V vertices, K joints. Metres.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class BodyModel(Protocol):
    """What turns rotations and shape numbers into a mesh; differentiable, without a camera.

    Attributes:
        rotations: number of rotations, J, the root's included.
        shape_numbers: number of shape numbers, S.
        expression_numbers: number of expression numbers, E; 0 if it has no expression.
        pelvis: joint that the root rotates about.
        head: joint that `transl` of a person is the place of.
        mirrored: for each rotation the number of the one on the other side of the body, itself in the middle.
        faces: int64 (F, 3), triangles of the mesh.
    """

    rotations: int
    shape_numbers: int
    expression_numbers: int
    pelvis: int
    head: int
    mirrored: Sequence[int]
    faces: np.ndarray

    def __call__(self, rotations: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Pose bodies with their root unrotated.

        Args:
            rotations: (P, J - 1, 3, 3), of all joints but the root, relative to their parents.
            shape: (P, S), or fewer: the others are 0.
            expression: (P, E).

        Returns:
            vertices (P, V, 3) and joints (P, K, 3) in the model's own axes, x to the side: the root's
            rotation takes them to those of the camera, x right, y down, z forward.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PlacedBodies:
    """Bodies in camera coordinates.

    Attributes:
        vertices: (P, V, 3).
        joints: (P, K, 3).
        pelvis: (P, 1, 3).
    """

    vertices: Tensor
    joints: Tensor
    pelvis: Tensor


def place(
    body: BodyModel,
    *,
    rotmat: Tensor,
    shape: Tensor,
    expression: Tensor,
    head: Tensor | None,
    shift: Tensor | None = None,
) -> PlacedBodies:
    """Pose bodies, rotate them about the pelvis and move them in front of the camera.

    Args:
        body: body model.
        rotmat: (P, J, 3, 3); the first is the root's rotation in camera axes.
        shape: (P, S).
        expression: (P, E).
        head: (P, 3), where the head joint comes to lie, as the perception head predicts it; None to give `shift`.
        shift: (P, 3), added to all points, as annotations of SMPL-X give it: the unmoved pelvis is where the body model
            has it, not at the origin.

    Source: naver/multi-hmr, with SMPL-X: pelvis joint 0, head joint 15.
    """
    vertices, joints = body(rotmat[:, 1:], shape, expression)
    centre = joints[:, body.pelvis : body.pelvis + 1]
    vertices, joints = ((points - centre) @ rotmat[:, 0].transpose(1, 2) + centre for points in (vertices, joints))
    if head is not None:
        shift = head - joints[:, body.head]
    if shift is not None:
        vertices, joints = vertices + shift[:, None], joints + shift[:, None]
    return PlacedBodies(vertices=vertices, joints=joints, pelvis=joints[:, body.pelvis : body.pelvis + 1])


def padded_shape(shape: Tensor, numbers: int) -> Tensor:
    """Return (P, numbers) of (P, S): zeros are appended, or the last numbers left out."""
    if shape.shape[1] >= numbers:
        return shape[:, :numbers]
    return torch.cat([shape, shape.new_zeros(len(shape), numbers - shape.shape[1])], dim=1)


def triangles(faces: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Return the triangles of quadrangles (F, 4) or triangles (F, 3), int64 (T, 3)."""
    polygons = np.asarray(faces, dtype=np.int64)
    if polygons.shape[1] == 3:
        return polygons
    return np.concatenate([polygons[:, [0, 1, 2]], polygons[:, [0, 2, 3]]])
