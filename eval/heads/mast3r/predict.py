"""What a pair model says of two pictures: points of both in the first camera's frame, matches, relative pose.

Shapes: H W pixels of a picture as the model takes it, M matches.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from eval.heads.geometry.poses import PoseEstimate, no_pose
from eval.heads.geometry.solvers import SolverName
from eval.heads.geometry.two_views import ViewMatches, intrinsics_from_points, match_views, two_view_pose
from eval.heads.mast3r.model import PairModel
from eval.heads.scoring.images import ModelImage, fitted
from eval.heads.scoring.predictor import LONG_SIDES_PX
from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ViewPrediction:
    """One of the two pictures.

    Attributes:
        pixels: uint8 (H, W, 3), as the model took them.
        points: float32 (H, W, 3), in the frame of the first camera: x right, y down, z forward.
        confidence: float32 (H, W), from 1 on.
        depth: float32 (H, W), in the frame of its own camera.
        intrinsics: float64 (3, 3), px of `pixels`.
        assumed_camera: the intrinsics are estimated from the predicted points.
    """

    pixels: np.ndarray
    points: np.ndarray
    confidence: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    assumed_camera: bool


@dataclass(frozen=True, kw_only=True)
class PairPrediction:
    """Two pictures.

    Attributes:
        views: the first and the second picture.
        matches: pixels of both that show the same point.
        pose: maps the first camera to the second; without one the reason.
    """

    views: tuple[ViewPrediction, ViewPrediction]
    matches: ViewMatches
    pose: PoseEstimate


@torch.inference_mode()
def predict(
    model: PairModel,
    pictures: tuple[np.ndarray, np.ndarray],
    *,
    intrinsics: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    long_side: int | None = None,
    method: Literal["pnp", "essential"] = "pnp",
    library: SolverName = "opencv",
    subsample: int = 8,
) -> PairPrediction:
    """Predict two pictures, in both orders.

    Args:
        model: model in evaluation mode.
        pictures: uint8 (h, w, 3) each, of any sizes.
        intrinsics: cameras (3, 3) in px of the pictures; None estimates one from the predicted points.
        long_side: longer side that pictures are resized to, px; None takes that of the released models, 512 or 518.
        method: how the pose is found: from points of the first picture, or by the essential matrix.
        library: whose solver finds it.
        subsample: distance of the pixels that matching starts from, px.

    Raises:
        InvalidInput: pictures of another form, intrinsics of no camera, or predictions that are not finite.
        MissingExtra: the library is not installed.
    """
    side = long_side or LONG_SIDES_PX.get(model.patch_size)
    if side is None:
        raise InvalidInput(f"patches of {model.patch_size} px: give the long side of the pictures")
    images = [
        fitted(_checked(pixels), camera, long_side=side, patch_size=model.patch_size)
        for pixels, camera in zip(pictures, intrinsics, strict=True)
    ]
    tokens = [model.encode(image.pixels[None]) for image in images]
    one, two = model.decode(tokens[0], tokens[1])
    turned, _ = model.decode(tokens[1], tokens[0])
    own = one["pts3d"][0], turned["pts3d"][0]
    for points in (*own, two["pts3d_in_other_view"][0]):
        if not bool(points.isfinite().all()):
            raise InvalidInput("predicted points are not finite: these weights and this student are no trained pair")
    views = (
        _view(images[0], own[0], own[0], one["conf"][0]),
        _view(images[1], two["pts3d_in_other_view"][0], own[1], two["conf"][0]),
    )
    matches = match_views(one, two, subsample=subsample)
    return PairPrediction(views=views, matches=matches, pose=_pose(matches, views, method=method, library=library))


def _pose(
    matches: ViewMatches,
    views: tuple[ViewPrediction, ViewPrediction],
    *,
    method: Literal["pnp", "essential"],
    library: SolverName,
) -> PoseEstimate:
    cameras = views[0].intrinsics, views[1].intrinsics
    if not len(matches.pixels1):
        return no_pose(0, "no matches")
    depths = (views[0].depth, views[1].depth) if method == "essential" else None
    return two_view_pose(matches, *cameras, method=method, library=library, depths=depths)


def _view(image: ModelImage, points: Tensor, own: Tensor, confidence: Tensor) -> ViewPrediction:
    camera = image.intrinsics
    return ViewPrediction(
        pixels=image.pixels,
        points=points.float().cpu().numpy(),
        confidence=confidence.float().cpu().numpy(),
        depth=own[..., 2].float().cpu().numpy(),
        intrinsics=intrinsics_from_points(own) if camera is None else camera,
        assumed_camera=camera is None,
    )


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InvalidInput(f"picture: expected uint8 (height, width, 3), found {pixels.dtype} {pixels.shape}")
    return pixels
