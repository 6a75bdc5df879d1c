"""Canonical view of one image from several predictions of its points, and focal lengths from points.

Shapes: K predictions of the same view in its own frame, H W pixels. Source: MASt3R (and MASt3R-SfM), DUSt3R.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from store.errors import InvalidInput

Maps = Tensor | np.ndarray
DepthRule = Literal["avg-angle", "avg-reldepth"]
CELL_PX = 8
WEIGHT_OFFSET = 0.999  # a confidence of 1, the least, still weighs a little
SMALLEST = 1e-8
FOCAL_ROUNDS = 10
FOCAL_BOUNDS = (0.5, 3.5)  # in units of the focal length of a 60 degree view


@dataclass(frozen=True, kw_only=True)
class CanonicalView:
    """Joined predictions of one view.

    Attributes:
        points: float32 (H, W, 3).
        confidence: float32 (H, W).
        relative_depth: float32 (H, W), depth over that of the centre of the pixel's cell.
    """

    points: Tensor
    confidence: Tensor
    relative_depth: Tensor


def canonical_view(
    points: Maps, confidence: Maps, *, cell_px: int = CELL_PX, rule: DepthRule = "avg-angle"
) -> CanonicalView:
    """Join K predictions of a view, weighted with their confidences.

    Args:
        points: float (K, H, W, 3).
        confidence: float (K, H, W), at least 1.
        cell_px: side of a cell, px; sides of the view are multiples of it.
        rule: how depths inside a cell are joined: by the angle to its centre, or by their ratio to its depth.

    Raises:
        InvalidInput: other shapes, or an unknown rule.
    """
    maps, weights = torch.as_tensor(points).float(), torch.as_tensor(confidence).float() - WEIGHT_OFFSET
    if maps.ndim != 4 or maps.shape[-1] != 3 or weights.shape != maps.shape[:3] or not len(maps):
        raise InvalidInput(
            f"points {tuple(maps.shape)}, confidences {tuple(weights.shape)}: expected (K, H, W, 3) and (K, H, W)"
        )
    if maps.shape[1] % cell_px or maps.shape[2] % cell_px:
        raise InvalidInput(f"view of {maps.shape[1]}x{maps.shape[2]} px: expected multiples of the cell of {cell_px}")
    total = weights.sum(dim=0)
    joined = (weights[..., None] * maps).sum(dim=0) / total[..., None]
    centres = _spread(maps, cell_px)
    if rule == "avg-angle":
        radius = (maps - centres)[..., :2].norm(dim=-1).clip(min=SMALLEST)
        angle = torch.atan((maps - centres)[..., 2] / radius)
        mean_angle = (weights * angle).sum(dim=0) / total
        relative = 1 + radius.mean(dim=0) * mean_angle.tan() / _spread(joined[None], cell_px)[0, ..., 2]
    elif rule == "avg-reldepth":
        relative = (weights * maps[..., 2] / centres[..., 2]).sum(dim=0) / total
    else:
        raise InvalidInput(f"rule {rule!r}: expected avg-angle or avg-reldepth")
    return CanonicalView(points=joined, confidence=weights.square().sum(dim=0) / total, relative_depth=relative)


def _spread(maps: Tensor, cell_px: int) -> Tensor:
    """Give every pixel of (K, H, W, C) the value of its cell's centre."""
    middle = cell_px // 2
    centres = maps[:, middle::cell_px, middle::cell_px].permute(0, 3, 1, 2)
    return functional.interpolate(centres, scale_factor=cell_px, mode="nearest").permute(0, 2, 3, 1)


def focal_from_points(
    points: Maps,
    *,
    principal_point: tuple[float, float] | None = None,
    rule: Literal["weiszfeld", "median"] = "weiszfeld",
    bounds: tuple[float, float] | None = None,
) -> float:
    """Estimate the focal length in px of a camera with square pixels from a map of points in its own frame.

    Args:
        points: float (H, W, 3).
        principal_point: (x, y) in px; None means the middle of the image.
        rule: `weiszfeld`, the least sum of distances, by ten reweighted rounds; `median` of all ratios.
        bounds: least and greatest value, in units of max(H, W) / (2 tan 30 deg), such as `FOCAL_BOUNDS`; None for none.

    Raises:
        InvalidInput: other shapes, an unknown rule, or no point with a usable direction.
    """
    maps = torch.as_tensor(points).float()
    if maps.ndim != 3 or maps.shape[-1] != 3 or not maps.numel():
        raise InvalidInput(f"points {tuple(maps.shape)}: expected (height, width, 3)")
    height, width = maps.shape[:2]
    centre = (width / 2, height / 2) if principal_point is None else principal_point
    across = torch.arange(width, device=maps.device) - centre[0]
    down = torch.arange(height, device=maps.device) - centre[1]
    pixels = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).reshape(-1, 2)
    flat = maps.reshape(-1, 3)
    if rule == "median":
        ratios = pixels * flat[:, 2:] / flat[:, :2]
        focal = torch.nanmedian(ratios.flatten())
    elif rule == "weiszfeld":
        focal = _weiszfeld(pixels, (flat[:, :2] / flat[:, 2:]).nan_to_num(posinf=0, neginf=0))
    else:
        raise InvalidInput(f"rule {rule!r}: expected weiszfeld or median")
    if not torch.isfinite(focal):
        raise InvalidInput("focal length: no point has a usable direction (all at depth 0 or not finite)")
    if bounds is not None:
        unit = max(height, width) / (2 * np.tan(np.radians(30)))
        focal = focal.clip(bounds[0] * unit, bounds[1] * unit)
    return float(focal)


def _weiszfeld(pixels: Tensor, directions: Tensor) -> Tensor:
    """Return the factor f with the least sum of |pixels - f directions|."""
    along, squared = (pixels * directions).sum(dim=1), directions.square().sum(dim=1)
    focal = along.mean() / squared.mean()
    for _ in range(FOCAL_ROUNDS):
        weights = (pixels - focal * directions).norm(dim=1).clip(min=SMALLEST).reciprocal()
        focal = (weights * along).mean() / (weights * squared).mean()
    return focal
