"""SMPL-X from a file that the user has: blend shapes, forward kinematics and linear blend skinning in plain torch.

Nothing of the model is shipped: its files need registration and are for non-commercial use. Read are arrays of the
released `SMPLX_NEUTRAL.npz` by name; objects beside them stay untouched.

Shapes: P people, V vertices, K = 55 joints, S shape numbers, E = 10 expression numbers. Source: Pavlakos et al., CVPR
2019, with `flat_hand_mean` and no hand PCA, as naver/multi-hmr uses it. Its joints are the 55 of the skeleton; the
original package appends 72 points of the surface, which here count among the vertices alone.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.heads.body.base import padded_shape
from eval.heads.body.npz import Arrays, read_arrays, require_finite
from store.errors import InvalidInput

JOINTS = 55
BODY, JAW, EYES, HANDS = range(1, 22), 22, 2, range(25, 55)
ARRAYS = {"v_template": 2, "shapedirs": 3, "posedirs": 3, "J_regressor": 2, "weights": 2, "kintree_table": 2, "f": 2}
SHAPE_SPACE = 300  # columns of shapedirs before those of the expression in full files
SMALL_SHAPE_SPACE = 10  # in files without the whole space
EXPRESSIONS = 10
SIDES = ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21))  # left and right body rotations
FIRST_HANDS, HAND = 22, 15  # place of the hands in the head's order: left, then right, then the jaw


def mirrored_rotations() -> tuple[int, ...]:
    """Return for each of the 53 rotations of the head's order the one on the other side of the body."""
    order = list(range(FIRST_HANDS + 2 * HAND + 1))
    for left, right in (*SIDES, *((i, i + HAND) for i in range(FIRST_HANDS, FIRST_HANDS + HAND))):
        order[left], order[right] = right, left
    return tuple(order)


class SmplX(nn.Module):
    """SMPL-X with 53 rotations: root, 21 of the body, 15 of the left and of the right hand, jaw; the eyes are at rest.

    Args:
        path: `SMPLX_NEUTRAL.npz` or a file of its layout.

    Raises:
        MissingFile, Damaged, UnsafeFile, InvalidInput: it cannot be read, or is no such file; problems are listed.
    """

    rotations = 53
    expression_numbers = EXPRESSIONS
    pelvis = 0
    head = 15
    mirrored = mirrored_rotations()

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        arrays = _checked(Path(path))
        directions = arrays["shapedirs"]  # (V, 3, S + E)
        space = SHAPE_SPACE if directions.shape[2] >= SHAPE_SPACE + EXPRESSIONS else SMALL_SHAPE_SPACE
        self.shape_numbers = min(space, SMALL_SHAPE_SPACE + 1)
        self.faces = arrays["f"].astype(np.int64)
        self.parents: list[int] = arrays["kintree_table"][0, 1:].astype(np.int64).tolist()
        for name, array in {
            "template": arrays["v_template"],
            "shape_directions": directions[:, :, : self.shape_numbers],
            "expression_directions": directions[:, :, space : space + EXPRESSIONS],
            "pose_directions": arrays["posedirs"],
            "regressor": arrays["J_regressor"],
            "weights": arrays["weights"],
        }.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))

    def forward(self, rotations: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Pose bodies with their root unrotated, in SMPL-X's axes; see `eval.heads.body.base.BodyModel`.

        Args:
            rotations: (P, 52, 3, 3).
            shape: (P, S), up to 11 of which count.
            expression: (P, 10).
        """
        matrices = self._all_rotations(rotations)  # (P, 55, 3, 3)
        shape = padded_shape(shape, self.shape_numbers)
        vertices = self.get_buffer("template") + torch.einsum("vcs,ps->pvc", self.get_buffer("shape_directions"), shape)
        vertices = vertices + torch.einsum("vce,pe->pvc", self.get_buffer("expression_directions"), expression)
        joints = torch.einsum("kv,pvc->pkc", self.get_buffer("regressor"), vertices)
        bent = (matrices[:, 1:] - torch.eye(3, device=matrices.device, dtype=matrices.dtype)).flatten(1)  # (P, 486)
        vertices = vertices + torch.einsum("vcd,pd->pvc", self.get_buffer("pose_directions"), bent)
        turned, placed = self._chain(matrices, joints)
        weights = self.get_buffer("weights")
        linear = torch.einsum("vk,pkij->pvij", weights, turned)
        moved = torch.einsum("vk,pki->pvi", weights, placed - (turned @ joints[..., None]).squeeze(-1))
        return (linear @ vertices[..., None]).squeeze(-1) + moved, placed

    def _all_rotations(self, rotations: Tensor) -> Tensor:
        """Put rotations of the head's order into SMPL-X's, with the root and the eyes at rest."""
        identity = torch.eye(3, device=rotations.device, dtype=rotations.dtype).expand(len(rotations), 1, 3, 3)
        body, hands, jaw = rotations[:, : len(BODY)], rotations[:, len(BODY) : -1], rotations[:, -1:]
        return torch.cat([identity, body, jaw, identity.expand(-1, EYES, 3, 3), hands], dim=1)

    def _chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotation (P, 55, 3, 3) and place (P, 55, 3) of every joint after forward kinematics."""
        turned, placed = [rotations[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self.parents, start=1):
            turned.append(turned[parent] @ rotations[:, joint])
            bone = joints[:, joint] - joints[:, parent]
            placed.append((turned[parent] @ bone[..., None]).squeeze(-1) + placed[parent])
        return torch.stack(turned, dim=1), torch.stack(placed, dim=1)


def _checked(path: Path) -> Arrays:
    """Read the arrays and compare their shapes.

    Raises:
        InvalidInput: all that is wrong.
    """
    arrays = read_arrays(path, ARRAYS, subject="SMPL-X model")
    require_finite(arrays, *ARRAYS, where=f"SMPL-X model '{path}'")
    vertices = len(arrays["v_template"])
    expected = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, max(SMALL_SHAPE_SPACE + EXPRESSIONS, arrays["shapedirs"].shape[2])),
        "posedirs": (vertices, 3, (JOINTS - 1) * 9),
        "J_regressor": (JOINTS, vertices),
        "weights": (vertices, JOINTS),
        "kintree_table": (2, JOINTS),
        "f": (len(arrays["f"]), 3),
    }
    wrong = [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if arrays[name].shape != shape
    ]
    if not wrong:
        parents = arrays["kintree_table"][0, 1:].astype(np.int64)
        if ((parents < 0) | (parents >= np.arange(1, JOINTS))).any():
            wrong.append("kintree_table: a joint comes before its parent")
        if arrays["f"].size and not 0 <= arrays["f"].min() <= arrays["f"].max() < vertices:
            wrong.append(f"f names vertices beyond {vertices}")
    if wrong:
        raise InvalidInput(f"SMPL-X model '{path}': {'; '.join(wrong)}. Give SMPLX_NEUTRAL.npz")
    return arrays
