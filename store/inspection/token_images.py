"""Pictures of tokens: three principal components shown as red, green and blue, norms, similarity to one patch.

Differences that the rounding of stored tokens can cause are not shown: what is constant becomes one flat colour.

Shapes: N tokens, C channels, rows x cols the patch grid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors

COLOURS = 3
DIRECT = 128  # size up to which all eigenvectors are found quickly enough
BLOCK, KRYLOV_BLOCKS, CONVERGED = 10, 12, 1e-7  # residual over the largest eigenvalue


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Directions and range that turn tokens into colours; with one basis, equal colours mean equal tokens.

    Attributes:
        mean: float64 (C,), subtracted first.
        components: float64 (3, C), the directions of red, green and blue; zeros where there are fewer.
        low, high: the values of a component that become 0 and 255, the same for all three, so that a component which
            varies less is paler; equal if the tokens differ by no more than their rounding.
    """

    mean: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]
    low: float
    high: float


def pca_basis(tokens: npt.NDArray[Any], *, clip_percent: float = 0.0) -> Basis:
    """Find the first three principal components of tokens (N, C) and the range that their values span.

    A component's sign is free in principle; here its largest entry is positive, so that pictures are reproducible.

    Args:
        tokens: (N, C), of all images that shall share colours.
        clip_percent: percentage of values outside the range at either end: a few outlying patches would otherwise make
            all others pale.

    Raises:
        errors.InvalidInput: no token, or one that is not finite.
    """
    values = np.asarray(tokens, np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise errors.InvalidInput(f"principal components need finite tokens (N, C), found shape {values.shape}")
    mean = values.mean(axis=0)
    centred = values - mean
    directions = _leading_directions(centred)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    components = np.zeros((COLOURS, values.shape[1]))
    components[: len(directions)] = directions * np.where(largest < 0, -1.0, 1.0)
    projected = centred @ components.T
    low, high = np.percentile(projected, (clip_percent, 100.0 - clip_percent))
    if high - low <= _most_rounding(tokens) and high - low <= rounding(tokens):
        low = high = (low + high) / 2
    return Basis(mean=mean, components=components, low=float(low), high=float(high))


def _most_rounding(tokens: npt.NDArray[Any]) -> float:
    """Return what `rounding` of finite tokens (N, C) cannot exceed, in a tenth of its time."""
    if not np.issubdtype(tokens.dtype, np.floating):
        return 0.0
    return float(np.sqrt(tokens.shape[1]) * np.spacing(max(abs(tokens.max()), abs(tokens.min()))))


def _leading_directions(centred: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the directions (3 or fewer, C) of most variance of centred tokens (N, C), by the smaller Gram matrix."""
    if len(centred) >= centred.shape[1]:
        return np.asarray(_leading_eigenvectors(centred.T @ centred).T)
    directions = _leading_eigenvectors(centred @ centred.T).T @ centred
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    within_rounding = lengths <= 1e-7 * lengths.max()  # the tokens vary in fewer directions
    return np.asarray(np.divide(directions, lengths, out=np.zeros_like(directions), where=~within_rounding))


def _leading_eigenvectors(gram: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the eigenvectors (n, 3 or fewer) of the largest eigenvalues, largest first.

    Of large matrices they are sought in a block Krylov space, in a fifth of the time; all are found where that does not
    converge, because the eigenvalues are too close.
    """
    size = len(gram)
    block = np.linalg.qr(np.random.default_rng(0).standard_normal((size, BLOCK)))[0]
    space, images = np.empty((size, 0)), np.empty((size, 0))
    for step in range(1, KRYLOV_BLOCKS + 1 if size > DIRECT else 0):
        image = gram @ block
        space, images = np.hstack([space, block]), np.hstack([images, image])
        if step % 4 == 0:
            values, turn = np.linalg.eigh(space.T @ images)
            values, turn = values[: -COLOURS - 1 : -1], turn[:, : -COLOURS - 1 : -1]
            found = space @ turn
            if np.linalg.norm(images @ turn - found * values, axis=0).max() <= CONVERGED * values[0]:
                return np.asarray(found)
        for _ in range(2):  # once leaves what rounding brought back
            image = image - space @ (space.T @ image)
        block = np.linalg.qr(image)[0]
    return np.asarray(np.linalg.eigh(gram)[1][:, : -COLOURS - 1 : -1])


def pca_rgb(tokens: npt.NDArray[Any], basis: Basis | None = None) -> npt.NDArray[np.uint8]:
    """Colour patch tokens.

    Args:
        tokens: (rows, cols, C).
        basis: from `pca_basis`, to make pictures comparable; None takes that of this image alone.

    Returns:
        uint8 (rows, cols, 3); values outside the range of the basis are clipped.
    """
    rows, cols, channels = tokens.shape
    flat = np.asarray(tokens, np.float64).reshape(-1, channels)
    used = basis or pca_basis(flat)
    projected = (flat - used.mean) @ used.components.T
    scaled = levels(projected, used.low, used.high)
    return np.asarray(np.rint(scaled * 255).astype(np.uint8).reshape(rows, cols, COLOURS))


def levels(values: npt.NDArray[Any], low: float, high: float, *, resolution: float = 0.0) -> npt.NDArray[np.float64]:
    """Scale values to brightness: `low` becomes 0, `high` 1, what lies outside is clipped.

    Args:
        values: any shape.
        low: value that becomes 0.
        high: value that becomes 1.
        resolution: difference that means nothing; if the range is not wider, all values become 0.5.

    Returns:
        float64, shape of `values`, in [0, 1].
    """
    if not high - low > resolution:
        return np.full(np.shape(values), 0.5)
    return np.asarray(((np.asarray(values, np.float64) - low) / (high - low)).clip(0.0, 1.0))


def rounding(tokens: npt.NDArray[Any]) -> float:
    """Return by how much the norms of tokens [..., C], or coordinates along a direction, can differ by rounding alone.

    Tokens are stored with few digits. Rounding moves each value by half a step at most, so a norm by half the norm of
    the steps, and two norms differ by the whole of it.
    """
    if not np.issubdtype(tokens.dtype, np.floating) or not tokens.size:
        return 0.0
    with np.errstate(invalid="ignore"):  # infinite values of foreign arrays
        steps = np.abs(np.spacing(tokens)).astype(np.float64)
    return float(np.linalg.norm(steps, axis=-1).max())


def norms(tokens: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the Euclidean norms [...] of tokens [..., C]."""
    return np.asarray(np.linalg.norm(np.asarray(tokens, np.float64), axis=-1))


def cosine_map(tokens: npt.NDArray[Any], patch: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the cosine similarity of every patch to one of them.

    Args:
        tokens: (rows, cols, C).
        patch: (row, col) of the one compared with.

    Returns:
        float64 (rows, cols) in [-1, 1]; 0 where a token is zero.

    Raises:
        errors.InvalidInput: there is no such patch.
    """
    values = np.asarray(tokens, np.float64)
    if not all(0 <= index < size for index, size in zip(patch, values.shape[:2], strict=True)):
        rows, cols = values.shape[:2]
        raise errors.InvalidInput(f"patch {patch[0]},{patch[1]} is not in a grid of {rows} x {cols}, counted from 0")
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    unit = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return np.asarray(np.clip(unit @ unit[patch], -1.0, 1.0))
