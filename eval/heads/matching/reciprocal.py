"""Matches of two views: pixels that are each other's nearest neighbours.

Shapes: H W pixels of a view (they may differ between the two), D channels, M matches. Pixels are (x, y).
Source: MASt3R (Leroy et al., ECCV 2024), fast reciprocal matching.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from eval.heads.matching.nearest import DotNeighbours, Neighbours, PointNeighbours
from store.errors import InvalidInput

MOST_ROUNDS = 10
BORDER_PX = 3

Maps = Tensor | np.ndarray
Metric = Literal["dot", "euclidean"]
ConfidenceRule = Literal["min", "geometric"]
Matches = tuple[np.ndarray, np.ndarray]


def fast_reciprocal(
    desc1: Maps,
    desc2: Maps,
    subsample: int = 8,
    *,
    starts: np.ndarray | None = None,
    pixel_tol: float = 0.0,
    metric: Metric = "dot",
) -> Matches:
    """Match two views, starting from a grid of pixels of the first.

    Each start goes to its nearest neighbour in the other view and back, again and again, until it stays; a start that
    is not itself matched may so end at another pixel, and starts that still move after ten rounds are dropped. Matches
    are mutual nearest neighbours; with `subsample` 1 they are all of them.

    Args:
        desc1: float (H, W, D) descriptors of view 1, or points (H, W, 3); they are compared in float32 where they are.
        desc2: those of view 2; the size may differ.
        subsample: distance in px of the starts, the first half as far from the border.
        starts: int (n, 2) pixels of view 1 to start from instead.
        pixel_tol: with more than 0 each start makes one round trip, and is matched if it returns to less than this
            distance in px. The start itself is reported.
        metric: `dot`, greatest product; `euclidean`, smallest distance (for points).

    Returns:
        Pixels of view 1 and of view 2, int64 (M, 2), without repetitions, ordered by row and column in view 1, then in
        view 2.

    Raises:
        InvalidInput: maps of other shapes, not finite, or starts outside.
    """
    flat1, flat2 = flattened(desc1, desc2)
    width1, width2 = desc1.shape[1], desc2.shape[1]
    begin = _starts(starts, subsample, (desc1.shape[0], width1)).to(flat1.device)
    to_one, to_two = neighbours(flat1, metric), neighbours(flat2, metric)
    if pixel_tol > 0:
        there = to_two(flat1[begin])
        back = to_one(flat2[there])
        moved = (_pixels(back, width1) - _pixels(begin, width1)).double().norm(dim=1)
        kept = moved < pixel_tol
        one, two = begin[kept], there[kept]
    else:
        one, two = _converged(flat1, flat2, begin, to_one, to_two)
    pairs = torch.unique(torch.stack([one, two], dim=1), dim=0)
    return _pixels(pairs[:, 0], width1).cpu().numpy(), _pixels(pairs[:, 1], width2).cpu().numpy()


def _converged(
    flat1: Tensor, flat2: Tensor, begin: Tensor, to_one: Neighbours, to_two: Neighbours
) -> tuple[Tensor, Tensor]:
    """Send starts to and fro until they stay; returns the pixels in both views of those that do."""
    one, two = begin.clone(), torch.full_like(begin, -1)
    active = torch.arange(len(begin), device=begin.device)
    for _ in range(MOST_ROUNDS):
        there = to_two(flat1[one[active]])
        moves = there != two[active]
        two[active] = there
        active = active[moves]
        back = to_one(flat2[two[active]])
        moves = back != one[active]
        one[active] = back
        active = active[moves]
        if not len(active):
            break
    stays = torch.ones(len(begin), dtype=torch.bool, device=begin.device)
    stays[active] = False
    return one[stays], two[stays]


def both_ways(
    desc1: Maps,
    desc2: Maps,
    conf1: Maps,
    conf2: Maps,
    subsample: int = 8,
    *,
    pixel_tol: float = 0.0,
    rule: ConfidenceRule = "min",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match from view 1 to view 2 and from view 2 to view 1, and join the matches.

    Args:
        desc1: descriptors of view 1; see `fast_reciprocal`.
        desc2: descriptors of view 2.
        conf1: confidences of the descriptors of view 1, (H, W).
        conf2: those of view 2.
        subsample: distance of the starts in px.
        pixel_tol: see `fast_reciprocal`.
        rule: confidence of a match: `min`, the lesser of the two (localisation), or `geometric`, the root of their
            product (structure from motion).

    Returns:
        Pixels of view 1 and of view 2, int64 (M, 2), and float32 confidences (M,).

    Raises:
        InvalidInput: see `fast_reciprocal`; or confidences of another shape.
    """
    for desc, conf in ((desc1, conf1), (desc2, conf2)):
        if tuple(conf.shape) != tuple(desc.shape[:2]):
            raise InvalidInput(f"confidences {tuple(conf.shape)}: expected those of descriptors {tuple(desc.shape)}")
    there = fast_reciprocal(desc1, desc2, subsample, pixel_tol=pixel_tol)
    back = fast_reciprocal(desc2, desc1, subsample, pixel_tol=pixel_tol)
    joined = np.concatenate([np.concatenate(there, axis=1), np.concatenate(back[::-1], axis=1)])
    joined = np.unique(joined[:, [1, 0, 3, 2]], axis=0)[:, [1, 0, 3, 2]]  # ordered by row, then column
    xy1, xy2 = joined[:, :2], joined[:, 2:]
    values = [
        torch.as_tensor(conf)[xy[:, 1], xy[:, 0]].float().cpu().numpy() for conf, xy in ((conf1, xy1), (conf2, xy2))
    ]
    conf = np.minimum(*values) if rule == "min" else np.sqrt(values[0] * values[1])
    return xy1, xy2, conf


def exhaustive(desc1: Maps, desc2: Maps, *, metric: Metric = "dot") -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest pixel of the other view for every pixel: numbers x + W y, int64 (H1 W1,) and (H2 W2,).

    Raises:
        InvalidInput: see `fast_reciprocal`.
    """
    flat1, flat2 = flattened(desc1, desc2)
    return neighbours(flat2, metric)(flat1).cpu().numpy(), neighbours(flat1, metric)(flat2).cpu().numpy()


def neighbours(keys: Tensor, metric: Metric) -> Neighbours:
    """Return a search among keys (M, D).

    Raises:
        InvalidInput: unknown metric.
    """
    if metric == "dot":
        return DotNeighbours(keys)
    if metric == "euclidean":
        return PointNeighbours(keys)
    raise InvalidInput(f"metric {metric!r}: expected dot or euclidean")


def away_from_border(xy: np.ndarray, shape: tuple[int, int], *, border_px: int = BORDER_PX) -> np.ndarray:
    """Tell which pixels (M, 2) lie at least `border_px` from the border of a view of `shape` = (H, W); bool (M,)."""
    height, width = shape
    x, y = xy[:, 0], xy[:, 1]
    inside = (x >= border_px) & (x < width - border_px) & (y >= border_px) & (y < height - border_px)
    return np.asarray(inside)


def flattened(desc1: Maps, desc2: Maps) -> tuple[Tensor, Tensor]:
    """Return two maps as float32 (H W, D) on the device of the first.

    Raises:
        InvalidInput: maps of other shapes, without pixels, of different channels, or not finite.
    """
    maps = [torch.as_tensor(desc).detach() for desc in (desc1, desc2)]
    shapes = " and ".join(str(tuple(one.shape)) for one in maps)
    if any(one.ndim != 3 or not one.numel() for one in maps) or maps[0].shape[2] != maps[1].shape[2]:
        raise InvalidInput(f"maps {shapes}: expected (height, width, channels) with as many channels in both")
    flat = [one.to(maps[0].device, torch.float32).reshape(-1, one.shape[2]).contiguous() for one in maps]
    for number, one in enumerate(flat, start=1):
        bad = int((~one.isfinite().all(dim=1)).sum())
        if bad:
            raise InvalidInput(f"view {number}: {bad} of {len(one)} pixels are not finite and have no neighbours")
    return flat[0], flat[1]


def _starts(starts: np.ndarray | None, subsample: int, shape: tuple[int, int]) -> Tensor:
    """Return the numbers x + W y of the pixels to start from."""
    height, width = shape
    if starts is None:
        if subsample < 1:
            raise InvalidInput(f"subsample {subsample}: expected 1 px or more")
        rows = np.arange(subsample // 2, height, subsample)
        columns = np.arange(subsample // 2, width, subsample)
        return torch.from_numpy((rows[:, None] * width + columns).flatten())
    pixels = np.asarray(starts)
    if pixels.ndim != 2 or pixels.shape[1] != 2 or not np.issubdtype(pixels.dtype, np.integer):
        raise InvalidInput(f"starts {pixels.dtype} {pixels.shape}: expected integers (n, 2), x and y")
    if ((pixels < 0) | (pixels >= (width, height))).any():
        raise InvalidInput(f"starts: some lie outside of the view of {width}x{height} px")
    return torch.from_numpy(pixels[:, 0].astype(np.int64) + width * pixels[:, 1].astype(np.int64))


def _pixels(numbers: Tensor, width: int) -> Tensor:
    """Turn numbers x + W y into pixels (n, 2)."""
    return torch.stack([numbers % width, numbers // width], dim=1)
