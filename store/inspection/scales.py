"""Scales of the pictures of teachers' tokens, shared by all pages, so that rows and pages can be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.cache.metadata import TeacherInfo
from store.inspection import token_images
from store.inspection.token_images import Basis

CLIP_PERCENT = 1.0
LEAST_COSINE_RANGE = 2.0**-10  # narrower ranges of similarity are rounding


@dataclass(frozen=True, kw_only=True)
class TeacherScale:
    """Scales shared by all pictures of one teacher.

    Attributes:
        basis: principal components that become colours.
        explained: shares of the variance of the tokens along these components.
        patch: (row, col) that similarities are to.
        norm_range: lowest and highest norm of a patch.
        norm_rounding: difference of norms that the rounding of stored tokens can cause.
        lowest_cosine: lowest similarity of a patch.
        rows: number of rows that the scales were found on.
    """

    basis: Basis
    explained: tuple[float, ...]
    patch: tuple[int, int]
    norm_range: tuple[float, float]
    norm_rounding: float
    lowest_cosine: float
    rows: int


def scales_of(
    patches: Mapping[str, Sequence[npt.NDArray[Any]]],
    teachers: Mapping[str, TeacherInfo],
    *,
    patch: tuple[int, int] | None,
) -> dict[str, TeacherScale]:
    """Return the scales of teachers by name; none for a teacher that no row has tokens of.

    Args:
        patches: teacher -> patches (rows, cols, C) of each row to find the scales on.
        teachers: the teachers by name.
        patch: (row, col) that similarities are to; None takes the central one.

    Raises:
        errors.InvalidInput: the patch is outside a teacher's grid.
    """
    scales = {}
    for name, grids in patches.items():
        if not grids:
            continue
        rows, cols = teachers[name].patch_grid
        chosen = patch or (rows // 2, cols // 2)
        tokens = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
        basis = token_images.pca_basis(tokens, clip_percent=CLIP_PERCENT)
        lengths = np.stack([token_images.norms(grid) for grid in grids])
        cosines = [token_images.cosine_map(grid, chosen) for grid in grids]
        scales[name] = TeacherScale(
            basis=basis,
            explained=_explained(tokens, basis),
            patch=chosen,
            norm_range=(float(lengths.min()), float(lengths.max())),
            norm_rounding=max(token_images.rounding(grid) for grid in grids),
            lowest_cosine=min(float(np.min(cosines)), 1.0 - LEAST_COSINE_RANGE),
            rows=len(grids),
        )
    return scales


def _explained(tokens: npt.NDArray[Any], basis: Basis) -> tuple[float, ...]:
    """Return the shares of the variance of tokens (N, C) along the components of a basis."""
    centred = np.asarray(tokens, np.float64) - basis.mean
    total = float((centred**2).sum())
    along = ((centred @ basis.components.T) ** 2).sum(axis=0)
    return tuple(float(value / total) if total > 0 else 0.0 for value in along)
