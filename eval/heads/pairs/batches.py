"""Prepared pairs as batches of torch tensors, stored as training wants them: every image landscape.

A portrait view is stored transposed, with its true shape beside it: in image, masks and maps x and y are exchanged, and
so are the rows of the camera matrix; points and poses stay. Shapes: B pairs, H W pixels with H <= W, N matches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.heads.mast3r.correspondences import Correspondences
from eval.heads.mast3r.losses.truth import PairTruth, ViewTruth
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
        corres: int64 (B, N, 2), pixels (x, y) of the stored image; their partners are in the other side.
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
    corres: Tensor
    is_metric_scale: Tensor
    dataset: tuple[str, ...]
    label: tuple[str, ...]
    instance: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """A batch of pairs with N correspondences each.

    Attributes:
        view1: the first views.
        view2: the second views.
        valid_corres: bool (B, N); False for negatives, whose pixels have nothing to do with each other.
    """

    view1: ViewBatch
    view2: ViewBatch
    valid_corres: Tensor

    def truth(self) -> PairTruth:
        """Return what the losses take."""
        return PairTruth(
            one=_truth(self.view1),
            two=_truth(self.view2),
            metric=self.view1.is_metric_scale & self.view2.is_metric_scale,
            pixels1=self.view1.corres,
            pixels2=self.view2.corres,
            matched=self.valid_corres,
        )

    def symmetrised(self) -> "PairBatch":
        """Return twice as many pairs, each in both orders, one after the other."""
        return PairBatch(
            view1=_interleaved(self.view1, self.view2),
            view2=_interleaved(self.view2, self.view1),
            valid_corres=self.valid_corres.repeat_interleave(2, dim=0),
        )


def collate(pairs: Sequence[Pair], matches: Sequence[Correspondences]) -> PairBatch:
    """Return a batch of prepared pairs.

    Args:
        pairs: views cut to one resolution; portraits may stand among landscapes.
        matches: correspondences of each pair, in pixels of its views.

    Raises:
        InvalidInput: no pairs, other numbers of correspondences, or views that differ in size once they lie landscape.
    """
    counts = sorted({len(match.matched) for match in matches})
    if not pairs or len(matches) != len(pairs) or len(counts) > 1:
        raise InvalidInput(f"{len(pairs)} pairs with {counts} correspondences; give at least one pair and equal counts")
    first = _side([pair[0] for pair in pairs], [match.pixels1 for match in matches])
    second = _side([pair[1] for pair in pairs], [match.pixels2 for match in matches])
    matched = torch.from_numpy(np.stack([match.matched for match in matches]))
    return PairBatch(view1=first, view2=second, valid_corres=matched)


def resolution_at(resolutions: Sequence[Size], *, seed: int, step: int) -> Size:
    """Return the resolution of a step's batch, drawn evenly; a function of the arguments.

    Args:
        resolutions: (width, height) each.
        seed: seed of the run.
        step: number of the step, from 0.
    """
    drawn = uniforms(key("pairs resolution", seed, step), 1)[0]
    return resolutions[int(drawn * len(resolutions))]


def stored_landscape(view: View, corres: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of one view and its correspondences (N, 2) as a batch stores them, by names of `ViewBatch`."""
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
        corres = corres[:, ::-1]
    return {
        **{name: np.ascontiguousarray(array) for name, array in arrays.items()},
        "true_shape": np.array([height, width], dtype=np.int64),
        "camera_pose": view.camera_pose,
        "intrinsics": np.ascontiguousarray(intrinsics),
        "corres": np.ascontiguousarray(corres),
        "is_metric_scale": np.array(view.is_metric),
    }


def _truth(view: ViewBatch) -> ViewTruth:
    return ViewTruth(points=view.pts3d, pose=view.camera_pose, valid=view.valid_mask, sky=view.sky_mask)


def _side(views: Sequence[View], corres: Sequence[np.ndarray]) -> ViewBatch:
    stored = [stored_landscape(view, pixels) for view, pixels in zip(views, corres, strict=True)]
    sizes = sorted({array["image"].shape[1::-1] for array in stored})
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sizes)
        raise InvalidInput(f"views of {shown} px in one batch; prepare all to one resolution")
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.stack([array[name] for array in stored])) for name in stored[0]
    }
    return ViewBatch(
        **tensors,
        dataset=tuple(view.dataset for view in views),
        label=tuple(view.label for view in views),
        instance=tuple(f"{view.dataset}/{view.instance}" for view in views),
    )


def _interleaved(one: ViewBatch, two: ViewBatch) -> ViewBatch:
    mixed: dict[str, Any] = {}
    for field in fields(ViewBatch):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if isinstance(first, Tensor):
            mixed[field.name] = torch.stack([first, second], dim=1).flatten(0, 1)
        else:
            mixed[field.name] = tuple(text for both in zip(first, second, strict=True) for text in both)
    return ViewBatch(**mixed)
