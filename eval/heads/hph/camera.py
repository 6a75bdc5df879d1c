"""Cameras of the human perception head: rays of patches, log distance, projection.

Shapes: B images, n patches per side, P people, J points. Pixels (x, y) in 2-D, metres in 3-D; x right, y down, z
forward. Source: naver/multi-hmr.
"""

import math

import torch
from torch import Tensor

from store.errors import InvalidInput

CELL_PX = 14
RAY_FREQUENCIES = 16
HIGHEST_FREQUENCY = 32.0
EMBEDDING_CHANNELS = 3 + 2 * 3 * RAY_FREQUENCIES
REFERENCE_FOV_DEGREES = 60.0
MAX_DISTANCE_M = 50.0
DISTANCE_EPS = 1e-10


def check_intrinsics(intrinsics: Tensor | None, *, images: int, device: torch.device) -> Tensor:
    """Return intrinsics as float32 (B, 3, 3) on a device.

    Args:
        intrinsics: (B, 3, 3), or (3, 3) for one camera of all images; px of the square image that the tokens are of.
        images: number of images, B.
        device: where the tokens are.

    Raises:
        InvalidInput: None, another shape, numbers that are not finite, or focal lengths that are not positive.
    """
    if intrinsics is None:
        raise InvalidInput(
            "intrinsics: expected a tensor (B, 3, 3) in px of the input image, found none. Without a calibration, "
            "make them from a field of view with eval.heads.hph.camera.from_field_of_view"
        )
    matrices = torch.as_tensor(intrinsics, dtype=torch.float32, device=device)
    if matrices.shape == (3, 3):
        matrices = matrices.expand(images, 3, 3)
    if matrices.shape != (images, 3, 3):
        raise InvalidInput(f"intrinsics: expected ({images}, 3, 3), one a image, found {tuple(matrices.shape)}")
    focal = matrices[:, [0, 1], [0, 1]]
    if not bool(torch.isfinite(matrices).all()) or not bool((focal > 0).all()):
        raise InvalidInput("intrinsics: expected finite numbers and positive focal lengths in K[0, 0] and K[1, 1]")
    return matrices


def from_field_of_view(degrees: float, *, img_size: int) -> Tensor:
    """Return (3, 3) intrinsics of a square image with a centred principal point.

    Args:
        degrees: field of view over the whole side.
        img_size: side of the image, px.
    """
    focal = img_size / (2 * math.tan(math.radians(degrees) / 2))
    return torch.tensor([[focal, 0, img_size / 2], [0, focal, img_size / 2], [0, 0, 1]])


def camera_embedding(intrinsics: Tensor, grid: int) -> Tensor:
    """Return the ray of every patch with its Fourier features; it does not depend on the image's content.

    The axes are **swapped**: the ray of row r and column c is K^-1 (14 r + 7, 14 c + 7, 1), so the row goes with fx and
    cx. Released weights were trained so.

    Args:
        intrinsics: float32 (B, 3, 3).
        grid: patches per side, n.

    Returns:
        (B, n, n, 99): ray (3), sin(pi r_d f_k) (48, axis-major), cos (48); f = 16 frequencies from 1 to 32.
    """
    centres = torch.arange(grid, device=intrinsics.device, dtype=torch.float32) * CELL_PX + CELL_PX / 2
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1).flatten(0, 1)  # (n * n, 3)
    rays = (torch.linalg.inv(intrinsics) @ points.T).transpose(1, 2)  # (B, n * n, 3)
    frequencies = torch.linspace(1.0, HIGHEST_FREQUENCY, RAY_FREQUENCIES, device=rays.device)
    angles = (math.pi * rays[..., None] * frequencies).flatten(-2)  # (B, n * n, 48)
    return torch.cat([rays, angles.sin(), angles.cos()], dim=-1).reshape(-1, grid, grid, EMBEDDING_CHANNELS)


def distance_from_log(y: Tensor, focal: Tensor, *, img_size: int) -> Tensor:
    """Return the distance in m, in [0, 50], of the number that the head predicts: exp(y f / f_n) - 1e-10.

    f_n is the focal length of a field of view of 60 degrees. It scales the logarithm, not the distance.

    Args:
        y: predicted numbers, any shape.
        focal: K[0, 0] in px, broadcastable to `y`.
        img_size: side of the image, px.
    """
    distance: Tensor = (y * focal / _reference_focal(img_size)).exp() - DISTANCE_EPS
    return distance.clamp(0, MAX_DISTANCE_M)


def log_from_distance(distance: Tensor, focal: Tensor, *, img_size: int) -> Tensor:
    """Return the number that the head should predict for a distance in m; inverse of `distance_from_log`."""
    return (distance + DISTANCE_EPS).log() * _reference_focal(img_size) / focal


def back_project(points: Tensor, distance: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the 3-D points (P, 3) in m at pixels (P, 2) whose depth is (P, 1) m; intrinsics (P, 3, 3)."""
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)
    rays: Tensor = (torch.linalg.inv(intrinsics) @ homogeneous[..., None]).squeeze(-1)
    return rays * distance


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the pixels (P, J, 2) of 3-D points (P, J, 3) in m; intrinsics (P, 3, 3)."""
    rays = points / points[..., 2:]
    return (rays @ intrinsics.transpose(1, 2))[..., :2]


def _reference_focal(img_size: int) -> float:
    return img_size / (2 * math.tan(math.radians(REFERENCE_FOV_DEGREES) / 2))
