"""One view of a scene with its depth, pose and camera, and what a dataset of pairs of views must offer.

Conventions of all pair datasets: axes of OpenCV (x right, y down, z forward), poses from the camera to the world,
depth along z, intrinsics in pixels with the centre of the top left pixel at (0, 0). Shapes: H W pixels.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from store.errors import InvalidInput

ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One view.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        depthmap: float32 (H, W), metres if `is_metric`, else any unit, that of the pose; 0 where it is unknown.
        camera_pose: float32 (4, 4), camera to world.
        intrinsics: float32 (3, 3), pixels; pixel centres are at integers.
        valid: bool (H, W), where `depthmap` is known.
        sky: bool (H, W), where the scene has no end.
        is_metric: whether depth and pose are in metres.
        dataset: name of the dataset.
        label: scene, for messages and figures.
        instance: unlike those of all other views of the dataset; tells a symmetrised batch.
    """

    image: np.ndarray
    depthmap: np.ndarray
    camera_pose: np.ndarray
    intrinsics: np.ndarray
    valid: np.ndarray
    sky: np.ndarray
    is_metric: bool
    dataset: str
    label: str
    instance: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[0])


Pair: TypeAlias = tuple[View, View]


@runtime_checkable
class PairDataset(Protocol):
    """Pairs of views. Safe to use from several processes; a pair is a function of the arguments alone."""

    def __len__(self) -> int:
        """Number of pairs; a huge number if they are made on demand."""
        ...

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """Return one pair.

        Args:
            index: from 0 to `len` - 1.
            rng: decides what the dataset leaves to chance, such as the masking of a background.

        Raises:
            InvalidInput: this pair cannot be used; the message says why.
            MissingFile: a file of it is not there.
        """
        ...


def checked_view(
    *,
    image: np.ndarray,
    depthmap: np.ndarray,
    camera_pose: np.ndarray,
    intrinsics: np.ndarray,
    is_metric: bool,
    dataset: str,
    label: str,
    instance: str,
    sky: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> View:
    """Return a view of arrays that fit together.

    Args:
        image: uint8 (H, W, 3).
        depthmap: floats (H, W); 0 or less where the depth is unknown.
        camera_pose: (4, 4), camera to world.
        intrinsics: (3, 3), pixel centres at integers.
        is_metric: see `View`.
        dataset: see `View`.
        label: see `View`.
        instance: see `View`.
        sky: bool (H, W); None means nowhere.
        mask: bool (H, W), where depth may be used; None means everywhere.

    Raises:
        InvalidInput: all problems of the view.
    """
    height, width = image.shape[:2]
    problems = []
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        problems.append(f"image: expected uint8 (H, W, 3), found {image.dtype} {image.shape}")
    for name, array in (("depth", depthmap), ("sky", sky), ("mask", mask)):
        if array is not None and array.shape != (height, width):
            found = " x ".join(map(str, array.shape[::-1]))
            problems.append(f"{name} of {found} px, but the image has {width} x {height}")
    problems += _depth_problems(depthmap) + pose_problems(camera_pose) + intrinsics_problems(intrinsics)
    if problems:
        raise InvalidInput(f"{dataset}, {instance}: {'; '.join(problems)}")
    valid = depthmap > 0
    valid = valid if mask is None else valid & mask
    nowhere = np.zeros((height, width), dtype=bool)
    return View(
        image=np.ascontiguousarray(image),
        depthmap=np.where(valid, depthmap, 0).astype(np.float32),
        camera_pose=camera_pose.astype(np.float32),
        intrinsics=intrinsics.astype(np.float32),
        valid=valid,
        sky=nowhere if sky is None else sky & ~valid,
        is_metric=is_metric,
        dataset=dataset,
        label=label,
        instance=instance,
    )


def pose_problems(pose: np.ndarray) -> list[str]:
    """Say why a matrix is no pose: not (4, 4), not finite, or no rotation with a translation; empty if it is one."""
    if pose.shape != (4, 4):
        return [f"pose: expected a 4 x 4 matrix, found shape {pose.shape}"]
    if not np.isfinite(pose).all():
        return ["pose: not finite"]
    rotation = pose[:3, :3].astype(np.float64)
    orthogonal = np.allclose(rotation @ rotation.T, np.eye(3), atol=ROTATION_TOLERANCE)
    if not orthogonal or np.linalg.det(rotation) < 0 or not np.allclose(pose[3], (0, 0, 0, 1)):
        return ["pose: expected a rotation and a translation"]
    return []


def intrinsics_problems(intrinsics: np.ndarray) -> list[str]:
    """Say why a matrix is no camera matrix with positive focal lengths; empty if it is one."""
    if intrinsics.shape != (3, 3):
        return [f"intrinsics: expected a 3 x 3 matrix, found shape {intrinsics.shape}"]
    if not np.isfinite(intrinsics).all() or min(intrinsics[0, 0], intrinsics[1, 1]) <= 0:
        return ["intrinsics: expected finite numbers with positive focal lengths"]
    if not np.allclose(intrinsics[2], (0, 0, 1)) or intrinsics[1, 0] != 0:
        return ["intrinsics: expected an upper triangular matrix that ends in 0 0 1"]
    return []


def _depth_problems(depth: np.ndarray) -> list[str]:
    if depth.dtype.kind not in "fiu":
        return [f"depth: expected numbers, found {depth.dtype}"]
    broken = depth.size - int(np.isfinite(depth).sum())
    return [f"depth: {broken} pixels are NaN or infinite; unknown depth must be 0"] if broken else []
