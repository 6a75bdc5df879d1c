"""Points of pixels, pixels of points, and cameras that follow a resize or a crop; in double precision.

Pixel centres are at integers: the image of width W covers x from -0.5 to W - 0.5. Shapes: H W pixels.
"""

import numpy as np

from eval.heads.pairs.views import View


def pixel_rays(intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the ray of each pixel in the camera's frame, with z = 1.

    Args:
        intrinsics: (3, 3).
        size: (width, height).

    Returns:
        float64 (height, width, 3).
    """
    columns, rows = np.meshgrid(np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64))
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    rays: np.ndarray = pixels @ np.linalg.inv(intrinsics.astype(np.float64)).T
    return rays


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a rigid (4, 4) transform to points (..., 3)."""
    matrix = matrix.astype(np.float64)
    moved: np.ndarray = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def inverse_pose(pose: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid (4, 4) transform, in double precision."""
    rotation = pose[:3, :3].astype(np.float64)
    inverse = np.eye(4)
    inverse[:3, :3] = rotation.T
    inverse[:3, 3] = -rotation.T @ pose[:3, 3]
    return inverse


def world_points(view: View, *, depth: np.ndarray | None = None, intrinsics: np.ndarray | None = None) -> np.ndarray:
    """Return the point of each pixel in the world; the camera's centre where depth is unknown.

    Args:
        view: the view.
        depth: takes this depth (h, w) instead of the view's, for example a smaller one ...
        intrinsics: ... with this camera.

    Returns:
        float64 (h, w, 3).
    """
    depth = view.depthmap if depth is None else depth
    rays = pixel_rays(view.intrinsics if intrinsics is None else intrinsics, (depth.shape[1], depth.shape[0]))
    return transform(view.camera_pose, rays * depth[..., None])


def project(points: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Project points of the world into a view.

    Args:
        points: (..., 3).
        view: camera and pose to project into.

    Returns:
        (pixels (..., 2) as x, y; depth (...)). Pixels of points that are not in front of the camera mean nothing.
    """
    inside = transform(inverse_pose(view.camera_pose), points)
    depth = inside[..., 2]
    scaled = inside @ view.intrinsics.astype(np.float64).T
    pixels = scaled[..., :2] / np.where(depth == 0, 1e-12, depth)[..., None]
    return pixels, depth


def resized_intrinsics(intrinsics: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return the camera of an image that was resized by (x, y) factors.

    As pixel centres are at integers, the resize maps x to (x + 0.5) * scale - 0.5.
    """
    resized = intrinsics.astype(np.float64).copy()
    for axis, factor in enumerate(scale):
        resized[axis] *= factor
        resized[axis, 2] += 0.5 * factor - 0.5
    return resized


def cropped_intrinsics(intrinsics: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
    """Return the camera of a crop whose top left pixel is at `corner` = (x, y) of the image."""
    cropped = intrinsics.astype(np.float64).copy()
    cropped[:2, 2] -= corner
    return cropped


def camera_matrix(numbers: tuple[float, float, float, float]) -> np.ndarray:
    """Return the camera matrix (3, 3) of fx, fy, cx, cy in px."""
    fx, fy, cx, cy = numbers
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
