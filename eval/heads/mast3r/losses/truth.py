"""Ground truth of pairs, as the losses take it.

Shapes: B pairs, H W pixels, N correspondences. Poses map camera to world coordinates; a camera looks along +z, x points
right, y down. Pixels are (x, y).
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ViewTruth:
    """Ground truth of one view of B pairs.

    Attributes:
        points: world coordinates of every pixel's point, float (B, H, W, 3).
        pose: camera to world, float (B, 4, 4).
        valid: pixels whose points are known, bool (B, H, W).
        sky: pixels of the sky, bool (B, H, W); None means none.
    """

    points: Tensor
    pose: Tensor
    valid: Tensor
    sky: Tensor | None = None

    def to(self, device: torch.device) -> "ViewTruth":
        """Return the same on a device."""
        return replace(self, **_on(self, device))


@dataclass(frozen=True, kw_only=True)
class PairTruth:
    """Ground truth of B pairs.

    Attributes:
        one: the first view.
        two: the second view.
        metric: pairs whose points are in metres, bool (B,); others have an unknown scale.
        pixels1: correspondences in the first view, int (B, N, 2); None without matching loss.
        pixels2: those in the second.
        matched: which of them are correspondences, bool (B, N); the others are negatives.
    """

    one: ViewTruth
    two: ViewTruth
    metric: Tensor
    pixels1: Tensor | None = None
    pixels2: Tensor | None = None
    matched: Tensor | None = None

    def to(self, device: torch.device) -> "PairTruth":
        """Return the same on a device."""
        return replace(self, **_on(self, device))


def in_first_camera(truth: PairTruth) -> tuple[Tensor, Tensor]:
    """Return the points of both views in the coordinates of the first camera, (B, H, W, 3) each.

    Raises:
        InvalidInput: shapes that do not fit together.
    """
    for name, view in (("first", truth.one), ("second", truth.two)):
        shape = view.points.shape
        if len(shape) != 4 or shape[-1] != 3 or view.valid.shape != shape[:3] or view.pose.shape != (shape[0], 4, 4):
            raise InvalidInput(
                f"{name} view: points {tuple(shape)}, valid {tuple(view.valid.shape)}, pose {tuple(view.pose.shape)}: "
                "expected (B, H, W, 3), (B, H, W) and (B, 4, 4)"
            )
    to_camera = torch.linalg.inv(truth.one.pose)
    rotation, shift = to_camera[:, None, None, :3, :3], to_camera[:, None, None, :3, 3]
    one, two = ((rotation @ view.points[..., None])[..., 0] + shift for view in (truth.one, truth.two))
    return one, two


def _on(truth: ViewTruth | PairTruth, device: torch.device) -> dict[str, Any]:
    values = {field.name: getattr(truth, field.name) for field in fields(truth)}
    return {name: value.to(device) for name, value in values.items() if value is not None}
