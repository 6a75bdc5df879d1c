"""Corresponding pixels of two views, from their true points and cameras.

Shapes: H W pixels of a view (they may differ between the two), N correspondences. Pixels are (x, y), with centres at
integers. Source: MASt3R (Leroy et al., ECCV 2024), naver/mast3r.
"""

from dataclasses import dataclass

import numpy as np

from store.errors import InvalidInput

COUNT = 8192
NEGATIVES = 0.5


@dataclass(frozen=True, kw_only=True)
class PosedView:
    """One view with its camera.

    Attributes:
        points: world coordinates of every pixel's point, float (H, W, 3); anything where it is unknown.
        valid: pixels whose point is known, bool (H, W).
        pose: camera to world, float (4, 4).
        intrinsics: float (3, 3), in px.
    """

    points: np.ndarray
    valid: np.ndarray
    pose: np.ndarray
    intrinsics: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Correspondences:
    """Pixel pairs for the matching loss.

    Attributes:
        pixels1: int64 (N, 2).
        pixels2: int64 (N, 2).
        matched: bool (N,), False for the negatives, whose two pixels have nothing to do with each other.
    """

    pixels1: np.ndarray
    pixels2: np.ndarray
    matched: np.ndarray


def mutual_pixels(one: PosedView, two: PosedView, *, clip: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of pixels whose points project onto each other, int64 (M, 2) each, by row and column in view 1.

    Projections are rounded; a pair stays if the way there and back ends where it began, which needs no test of what
    hides what. Points without a depth in the other view have no way there.

    Args:
        one: the first view.
        two: the second view.
        clip: clip projections into the other view first, as the published training does. Two views that miss each
            other then still "match" along the borders that face each other; False leaves such points out.

    Raises:
        InvalidInput: shapes that do not fit together.
    """
    for view in (one, two):
        if view.points.ndim != 3 or view.points.shape[2] != 3 or view.valid.shape != view.points.shape[:2]:
            raise InvalidInput(f"view with points {view.points.shape} and valid {view.valid.shape}: do not fit")
    there, back = _projected(one, two, clip=clip), _projected(two, one, clip=clip)
    numbers = np.flatnonzero(there >= 0)
    numbers = numbers[back[there[numbers]] == numbers]
    return _pixels(numbers, one.valid.shape[1]), _pixels(there[numbers], two.valid.shape[1])


def _projected(view: PosedView, other: PosedView, *, clip: bool) -> np.ndarray:
    """Return for each pixel of a view the number x + W y of the pixel of the other that it falls into; -1 for none."""
    height, width = other.valid.shape
    to_camera = np.linalg.inv(other.pose.astype(np.float64))
    known = np.where(view.valid[..., None], view.points, np.nan).reshape(-1, 3).astype(np.float64)
    image = (known @ to_camera[:3, :3].T + to_camera[:3, 3]) @ other.intrinsics.astype(np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = (image[:, 2] > 0) & np.isfinite(image).all(axis=1)
        pixels = np.where(seen[:, None], image[:, :2] / image[:, 2:], 0.0)
    # clipped before the conversion: what lies far outside does not fit into an integer
    x, y = (np.round(np.clip(pixels[:, axis], 0, side - 1)) for axis, side in ((0, width), (1, height)))
    if not clip:
        seen &= (np.abs(pixels[:, 0] - x) <= 0.5) & (np.abs(pixels[:, 1] - y) <= 0.5)
    return np.where(seen, x + width * y, -1).astype(np.int64)


def draw(
    one: PosedView,
    two: PosedView,
    generator: np.random.Generator,
    *,
    count: int = COUNT,
    negatives: float = NEGATIVES,
    clip: bool = True,
) -> Correspondences:
    """Draw pixel pairs for the matching loss: corresponding ones, filled up with negatives.

    Args:
        one: the first view.
        two: the second view.
        generator: source of the draws.
        count: number of pairs, N.
        negatives: see `draw_from`.
        clip: see `mutual_pixels`.

    Raises:
        InvalidInput: a view with less than N pixels, or shapes that do not fit together.
    """
    shapes = (one.valid.shape, two.valid.shape)
    return draw_from(mutual_pixels(one, two, clip=clip), shapes, generator, count=count, negatives=negatives)


def draw_from(
    mutual: tuple[np.ndarray, np.ndarray],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    generator: np.random.Generator,
    *,
    count: int = COUNT,
    negatives: float = NEGATIVES,
) -> Correspondences:
    """Draw pixel pairs from all that correspond, and fill them up with negatives.

    Args:
        mutual: corresponding pixels of both views, int (M, 2) each.
        shapes: (H, W) of both views.
        generator: source of the draws.
        count: number of pairs, N.
        negatives: share of negatives at least, as far as there are pixels that correspond to none: of these they are
            drawn, independently in the two views and without replacement.

    Raises:
        InvalidInput: a view with less than N pixels.
    """
    smallest = min(int(np.prod(shape)) for shape in shapes)
    if not 0 < count <= smallest or not 0 <= negatives <= 1:
        raise InvalidInput(
            f"{count} pixel pairs with a share {negatives} of negatives: expected 1 to {smallest}, the pixels of the "
            "smaller view, and a share from 0 to 1"
        )
    alone = [_others(pixels, shape) for pixels, shape in zip(mutual, shapes, strict=True)]
    positives = min(len(mutual[0]), int(count * (1 - negatives)))
    positives = max(positives, count - min(len(alone[0]), len(alone[1])))
    chosen = np.sort(generator.permutation(len(mutual[0]))[:positives])
    drawn = [others[generator.permutation(len(others))[: count - positives]] for others in alone]
    return Correspondences(
        pixels1=np.concatenate([mutual[0][chosen], drawn[0]]),
        pixels2=np.concatenate([mutual[1][chosen], drawn[1]]),
        matched=np.arange(count) < positives,
    )


def _others(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of a view of shape (H, W) that are not among those given."""
    height, width = shape
    free = np.ones(height * width, dtype=bool)
    free[pixels[:, 0] + width * pixels[:, 1]] = False
    return _pixels(np.flatnonzero(free), width)


def _pixels(numbers: np.ndarray, width: int) -> np.ndarray:
    return np.stack([numbers % width, numbers // width], axis=1)
