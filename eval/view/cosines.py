"""Cosines of chosen patches to all others: the map that a click draws, in every array and in rows put beside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.view import tokens
from eval.view.opened import Opened
from eval.view.parameters import base64_of
from eval.view.tokens import Float32, Place
from store import errors


def query_of(vectors: Float32, patches: Sequence[int]) -> Float32 | None:
    """Return the direction [C] of the mean of some patches; None where none of them is stored.

    Args:
        vectors: unit vectors [N, C].
        patches: numbers of the patches.
    """
    chosen = vectors[list(patches)]
    chosen = chosen[~np.isnan(chosen[:, 0])]
    return tokens.unit(chosen.mean(axis=0)) if len(chosen) else None


def cosine_maps(
    opened: Opened, dataset: str, row: int, array: str, *, patches: Sequence[int], beside: Sequence[Place]
) -> list[dict[str, Any]]:
    """Return a map for the row itself and for each row beside it that has this array.

    Args:
        opened: what is shown.
        dataset, row: the row that the patches are of.
        array: teacher, student or projection.
        patches: numbers of patches in the array's grid.
        beside: further rows.
    """
    shape = tokens.shape_of(opened, dataset, array)
    (own,) = tokens.unit_patches(opened, dataset, [row], array)
    query = query_of(own, tokens.checked_patches(patches, shape))
    maps = [_map(dataset, row, shape.grid, own, query)]
    for other, other_row in beside:
        try:
            other_shape = tokens.shape_of(opened, other, array)
            (vectors,) = tokens.unit_patches(opened, other, [other_row], array)
            if vectors.shape[1] != own.shape[1]:
                sizes = f"{vectors.shape[1]} channels instead of {own.shape[1]}"
                raise errors.InvalidInput(f"'{array}' is another network in '{other}': {sizes}")
        except errors.CodistillError as error:
            maps.append(_map(other, other_row, shape.grid, np.full_like(own, np.nan), None) | {"note": str(error)})
        else:
            maps.append(_map(other, other_row, other_shape.grid, vectors, query))
    return maps


def in_every_array(
    opened: Opened, dataset: str, row: int, array: str, *, patches: Sequence[int], beside: Sequence[Place]
) -> dict[str, dict[str, Any]]:
    """Return maps by array; a patch of another grid is the one that has its centre. Arrays without the row are noted.

    Args:
        opened: what is shown.
        dataset, row: the row that the patches are of.
        array: array whose grid the patches are numbers of.
        patches: numbers of patches.
        beside: further rows.
    """
    source = tokens.shape_of(opened, dataset, array)
    chosen = tokens.checked_patches(patches, source)
    answers: dict[str, dict[str, Any]] = {}
    for name in tokens.array_names(opened, dataset):
        try:
            grid = tokens.shape_of(opened, dataset, name).grid
            own = sorted({tokens.at_centre(patch, source.grid, grid) for patch in chosen})
            maps = cosine_maps(opened, dataset, row, name, patches=own, beside=beside)
        except errors.CodistillError as error:
            answers[name] = {"maps": [], "note": str(error)}
        else:
            answers[name] = {"maps": maps}
    return answers


def _map(dataset: str, row: int, grid: tuple[int, int], vectors: Float32, query: Float32 | None) -> dict[str, Any]:
    cosines = np.full(len(vectors), np.nan, np.float32) if query is None else vectors @ query
    note = "the chosen patches are not stored" if query is None else None
    data = base64_of(np.clip(cosines, -1, 1), "f4")
    return {"dataset": dataset, "row": row, "grid": list(grid), "data": data, "note": note}
