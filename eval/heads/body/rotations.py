"""Rotations as six numbers, matrices and vectors, in float32 or better. Shapes: any leading dimensions."""

import torch
from torch import Tensor
from torch.nn import functional

SMALL_ANGLE = 1e-4  # below it the series of sin(x)/x is exact in float32


def from_6d(numbers: Tensor) -> Tensor:
    """Read six numbers as the first two columns of a rotation, and make them orthonormal (Gram-Schmidt).

    The first three numbers are the first column, the next three the second: **not** interleaved. There is no epsilon:
    parallel columns give NaN, as in the original.

    Args:
        numbers: (..., 6).

    Returns:
        (..., 3, 3); column 0 is along the first three numbers, column 2 the cross product of the others.

    Source: naver/multi-hmr's reading of Zhou et al., CVPR 2019.
    """
    first, second = numbers[..., :3], numbers[..., 3:]
    x = first / first.norm(dim=-1, keepdim=True)
    rest = second - (x * second).sum(-1, keepdim=True) * x
    y = rest / rest.norm(dim=-1, keepdim=True)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def to_vector(matrices: Tensor) -> Tensor:
    """Return axis times angle in rad, (..., 3), of rotations (..., 3, 3), through the largest part of the quaternion.

    The angle is in [0, pi]; at pi the sign of the axis is arbitrary, so compare rotations as matrices there.
    """
    m = matrices.flatten(-2)  # (..., 9): m[3 * row + column]
    xx, yy, zz = m[..., 0], m[..., 4], m[..., 8]
    # Each row is the quaternion (w, x, y, z) times four of its own parts; the row of the largest part is stable.
    rows = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, m[..., 7] - m[..., 5], m[..., 2] - m[..., 6], m[..., 3] - m[..., 1]], -1),
            torch.stack([m[..., 7] - m[..., 5], 1 + xx - yy - zz, m[..., 3] + m[..., 1], m[..., 2] + m[..., 6]], -1),
            torch.stack([m[..., 2] - m[..., 6], m[..., 3] + m[..., 1], 1 - xx + yy - zz, m[..., 7] + m[..., 5]], -1),
            torch.stack([m[..., 3] - m[..., 1], m[..., 2] + m[..., 6], m[..., 7] + m[..., 5], 1 - xx - yy + zz], -1),
        ],
        dim=-2,
    )  # (..., 4, 4)
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = rows.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = functional.normalize(chosen, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, axis = quaternion[..., :1], quaternion[..., 1:]
    sine = axis.square().sum(-1, keepdim=True).clamp_min(torch.finfo(axis.dtype).tiny).sqrt()
    angle = 2 * torch.atan2(sine, w)
    return torch.where(sine < SMALL_ANGLE, 2 * axis, axis * angle / sine)


def from_vector(vectors: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) of axis times angle in rad, (..., 3), by Rodrigues' formula.

    Differentiable at zero too.
    """
    square = vectors.square().sum(-1)[..., None, None]  # angle^2
    small = square < SMALL_ANGLE**2
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    sine = torch.where(small, 1 - square / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*x.shape, 3, 3)
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    matrices: Tensor = identity + sine * cross + cosine * (cross @ cross)
    return matrices
