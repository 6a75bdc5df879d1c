"""Prepared pairs as batches of torch tensors, stored as training wants them: every image landscape.

A portrait view is stored transposed, with its true shape beside it: image, masks and maps have x and y exchanged, and so
have the rows of the camera matrix; points and poses stay. Shapes: B pairs, H W pixels with H <= W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from eval.heads.pairs.geometry import world_points
from eval.heads.pairs.resize import Size
from eval.heads.pairs.views import Pair, View
from store.common.stateless_random import key, uniforms
from store.errors import InvalidInput

RESOLUTIONS: dict[str, tuple[Size, ...]] = {
    "mast3r-512": tuple((512, height) for height in (384, 336, 288, 256, 160)),
    "dune-336": tuple((448, height) for height in (448, 336, 294, 252, 224, 140)),
    "dune-448": tuple((518, height) for height in (518, 392, 336, 294, 252, 168)),
}
"""Resolutions (width, height) of published recipes; those of DUNE are for a patch of 14."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewBatch:
    """One side of a batch of pairs.

    Attributes:
        image: uint8 (B, H, W, 3).
        true_shape: int64 (B, 2), height and width before a portrait was transposed.
        depthmap: float32 (B, H, W); 0 where unknown.
        pts3d: float32 (B, H, W, 3), the pixels' points in the world; the camera's centre where depth is unknown.
        valid_mask: bool (B, H, W).
        sky_mask: bool (B, H, W).
        camera_pose: float32 (B, 4, 4), camera to world.
        intrinsics: float32 (B, 3, 3), of the stored image.
        is_metric_scale: bool (B,).
        dataset: B names.
        label: B scenes.
        instance: B texts, `dataset/instance`, unlike those of other views.
    """

    image: Tensor
    true_shape: Tensor
    depthmap: Tensor
    pts3d: Tensor
    valid_mask: Tensor
    sky_mask: Tensor
    camera_pose: Tensor
    intrinsics: Tensor
    is_metric_scale: Tensor
    dataset: tuple[str, ...]
    label: tuple[str, ...]
    instance: tuple[str, ...]


def collate(pairs: Sequence[Pair]) -> tuple[ViewBatch, ViewBatch]:
    """Return a batch of prepared pairs.

    Raises:
        InvalidInput: no pairs, or views that differ in size once they lie landscape.
    """
    if not pairs:
        raise InvalidInput("a batch of no pairs; give at least one")
    return _side([pair[0] for pair in pairs]), _side([pair[1] for pair in pairs])


def symmetrised(batch: tuple[ViewBatch, ViewBatch]) -> tuple[ViewBatch, ViewBatch]:
    """Return a batch of twice as many pairs, each in both orders, one after the other."""
    one, two = batch
    return _interleaved(one, two), _interleaved(two, one)


def resolution_at(resolutions: Sequence[Size], *, seed: int, step: int) -> Size:
    """Return the resolution of a step's batch, drawn evenly; a function of the arguments.

    Args:
        resolutions: (width, height) each.
        seed: seed of the run.
        step: number of the step, from 0.
    """
    drawn = uniforms(key("pairs resolution", seed, step), 1)[0]
    return resolutions[int(drawn * len(resolutions))]


def stored_landscape(view: View) -> dict[str, np.ndarray]:
    """Return the arrays of one view as they are stored in a batch, under the names of `ViewBatch`."""
    height, width = view.image.shape[:2]
    arrays = {
        "image": view.image,
        "depthmap": view.depthmap,
        "pts3d": world_points(view).astype(np.float32),
        "valid_mask": view.valid,
        "sky_mask": view.sky,
    }
    intrinsics = view.intrinsics
    if height > width:
        arrays = {name: array.swapaxes(0, 1) for name, array in arrays.items()}
        intrinsics = intrinsics[[1, 0, 2]]
    return {
        **{name: np.ascontiguousarray(array) for name, array in arrays.items()},
        "true_shape": np.array([height, width], dtype=np.int64),
        "camera_pose": view.camera_pose,
        "intrinsics": np.ascontiguousarray(intrinsics),
        "is_metric_scale": np.array(view.is_metric),
    }


def _side(views: Sequence[View]) -> ViewBatch:
    stored = [stored_landscape(view) for view in views]
    sizes = sorted({array["image"].shape[1::-1] for array in stored})
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sizes)
        raise InvalidInput(f"views of {shown} px in one batch; prepare all to one resolution")
    tensors = {name: torch.from_numpy(np.stack([array[name] for array in stored])) for name in stored[0]}
    return ViewBatch(
        **tensors,
        dataset=tuple(view.dataset for view in views),
        label=tuple(view.label for view in views),
        instance=tuple(f"{view.dataset}/{view.instance}" for view in views),
    )


def _interleaved(one: ViewBatch, two: ViewBatch) -> ViewBatch:
    mixed = {}
    for field in fields(ViewBatch):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if isinstance(first, Tensor):
            mixed[field.name] = torch.stack([first, second], dim=1).flatten(0, 1)
        else:
            mixed[field.name] = tuple(text for both in zip(first, second, strict=True) for text in both)
    return ViewBatch(**mixed)
