"""Relative pose of two images by a pair model; what nobody published is an option, see `PoseSettings`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.heads.geometry.poses import PoseEstimate, no_pose
from eval.heads.geometry.two_views import Outputs, intrinsics_from_points, match_views, two_view_pose
from eval.heads.scoring.predictor import Predictor
from eval.heads.scoring.settings import PoseSettings
from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class EncodedView:
    """An image that was encoded.

    Attributes:
        tokens: what the model made of it.
        intrinsics: (3, 3) in px of the image that the model was given; None if not known.
    """

    tokens: Any
    intrinsics: np.ndarray | None


def encoded(predictor: Predictor, pixels: np.ndarray, intrinsics: np.ndarray | None) -> EncodedView:
    """Fit an image to the model, and encode it; its camera follows.

    Raises:
        InvalidInput: see `Predictor.fit`.
    """
    image = predictor.fit(pixels, intrinsics)
    return EncodedView(tokens=predictor.encode(image.pixels), intrinsics=image.intrinsics)


def relative_pose(
    predictor: Predictor, one: EncodedView, two: EncodedView, settings: PoseSettings, *, metric: bool
) -> PoseEstimate:
    """Estimate the pose of the second view in the frame of the first one.

    Args:
        predictor: the model.
        one: first view.
        two: second view.
        settings: how.
        metric: give the translation of an essential matrix a length, which takes the pair in the other order, too.

    Returns:
        The pose, or the reason why there is none: predictions that are not finite, or too few matches.

    Raises:
        InvalidInput: intrinsics are wanted as given, and there are none.
        MissingExtra: the library is not installed.
    """
    first, second = predictor.decode(one.tokens, two.tokens)
    turned: Outputs | None = None
    if settings.camera == "predicted" or (settings.method == "essential" and metric):
        turned = predictor.decode(two.tokens, one.tokens)[0]
    cameras = one.intrinsics, two.intrinsics
    if settings.camera == "given" and any(camera is None for camera in cameras):
        raise InvalidInput("no intrinsics: give them, or have them predicted")
    try:
        matches = match_views(first, second, subsample=settings.subsample, least_confidence=settings.least_confidence)
        if settings.camera == "predicted" and turned is not None:
            cameras = intrinsics_from_points(first["pts3d"][0]), intrinsics_from_points(turned["pts3d"][0])
    except InvalidInput as error:  # predictions that are not finite
        return no_pose(0, str(error))
    depths = None
    if settings.method == "essential" and metric and turned is not None:
        depths = _depth(first), _depth(turned)
    return two_view_pose(matches, *cameras, method=settings.method, library=settings.library, depths=depths)


def _depth(outputs: Outputs) -> np.ndarray:
    """Return the depth (H, W) of the first view of a pair."""
    depth: np.ndarray = outputs["pts3d"][0, ..., 2].float().cpu().numpy()
    return depth
