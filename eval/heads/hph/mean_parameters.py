"""Mean pose, shape and camera that the head's numbers are added to.

They are part of a released checkpoint. A head that is trained from scratch starts from identity rotations, or from
SPIN's `smpl_mean_params.npz` if the user has it.
"""

from pathlib import Path

import torch
from torch import Tensor

from eval.heads.body.npz import read_arrays, require_finite
from eval.heads.hph.sizes import CAMERA_NUMBERS, HeadSizes
from store.errors import InvalidInput

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # first and second column, as `rotations.from_6d` reads them
KID_NUMBERS = 11
SPIN_ROTATIONS = 24


def standing(sizes: HeadSizes) -> dict[str, Tensor]:
    """Return the buffers of a head from scratch: identity rotations, zeros otherwise.

    Returns:
        By name: init_body_pose (1, 6 J), init_betas (1, S), init_betas_kid (1, 11), init_cam (1, 3), init_expression.
    """
    betas = KID_NUMBERS - 1 if sizes.num_betas == KID_NUMBERS else sizes.num_betas
    return {
        "init_body_pose": torch.tensor(IDENTITY).repeat(sizes.rotations)[None],
        "init_betas": torch.zeros(1, betas),
        "init_betas_kid": torch.zeros(1, KID_NUMBERS),
        "init_cam": torch.zeros(1, CAMERA_NUMBERS),
        "init_expression": torch.zeros(1, sizes.expressions),
    }


def from_spin(path: Path, sizes: HeadSizes) -> dict[str, Tensor]:
    """Return the buffers of a head from scratch with the means of SPIN's file; identity where it has none.

    The file stores a rotation as rows of its first two columns; they are put into the order that this head reads, which
    the authors' code leaves out.

    Args:
        path: `smpl_mean_params.npz`: pose (144,), shape (10,), cam (3,).
        sizes: sizes of the head.

    Raises:
        MissingFile, InvalidInput: there is no such file, or it is another.
    """
    where = f"mean parameters '{path}'"
    arrays = read_arrays(path, {"pose": 1, "shape": 1, "cam": 1}, subject="mean parameters")
    require_finite(arrays, *arrays, where=where)
    expected = {"pose": 6 * SPIN_ROTATIONS, "shape": KID_NUMBERS - 1, "cam": CAMERA_NUMBERS}
    wrong = [
        f"{name} {expected[name]}, found {len(array)}" for name, array in arrays.items() if len(array) != expected[name]
    ]
    if wrong:
        raise InvalidInput(f"{where}: expected numbers of {'; '.join(wrong)}")
    buffers = standing(sizes)
    pose, shape, camera = (torch.from_numpy(arrays[name]).float() for name in ("pose", "shape", "cam"))
    columns = pose.reshape(SPIN_ROTATIONS, 3, 2).transpose(1, 2).flatten()[: sizes.pose_numbers]
    buffers["init_body_pose"][0, : len(columns)] = columns
    for name in ("init_betas", "init_betas_kid"):
        known = min(len(shape), buffers[name].shape[1])
        buffers[name][0, :known] = shape[:known]
    buffers["init_cam"][0] = camera
    return buffers
