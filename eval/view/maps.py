"""Maps of one row: principal components as colours, norms, outlier tokens, errors of a student; and hover values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.view import bases, tokens
from eval.view.opened import Opened
from eval.view.parameters import base64_of, finite
from eval.view.tokens import Place
from store import errors
from store.inspection import token_images

MODES = ("pca", "norm", "outlier", "error")
BASES = ("row", "shown", "dataset")
TOP_CHANNELS = 8


def map_of(
    opened: Opened,
    dataset: str,
    row: int,
    array: str,
    *,
    mode: str,
    basis: str = "row",
    shown: Sequence[Place] = (),
    run: str = "",
) -> dict[str, Any]:
    """Return a map as the page draws it.

    Args:
        opened: what is shown.
        dataset, row, array: what the map is of.
        mode: one of `MODES`.
        basis: one of `BASES`, for `pca`.
        shown: (dataset, row) of the rows that a basis of the shown rows is of.
        run: run whose error is drawn, for `error`; the first if empty.

    Raises:
        errors.CodistillError: the row has no such tokens; the reason is told.
    """
    shape = tokens.shape_of(opened, dataset, array)
    if mode == "pca":
        return _colours(opened, dataset, row, array, basis=basis, shown=shown)
    note = None
    if mode == "error":
        values, note = _errors(opened, dataset, row, array, run=run)
        low, high, unit = 0.0, max(finite(np.nanmax(values)) or 0.0, 1e-6), "1 - cosine"
    else:
        norms = token_images.norms(tokens.patches(opened, dataset, row, array))
        values, unit = norms, "norm"
        low, high = _range(norms)
        if mode == "outlier":
            known = bases.reference(opened, dataset, array)
            values, unit = bases.outlier_scores(norms, known), "robust deviations of the norm"
            outliers = int((values > bases.OUTLIER).sum())
            note = f"{outliers} of {shape.patches} patches above {bases.OUTLIER:g}; their norm is unlike the dataset's"
            low, high = 0.0, max(bases.OUTLIER, finite(np.nanmax(values)) or 0.0)
    return {
        "grid": list(shape.grid),
        "kind": "scalar",
        "data": base64_of(values, "f4"),
        "low": low,
        "high": high,
        "unit": unit,
        "note": note,
        "missing": bases.mask_of(np.isnan(values)),
    }


def thumbnail(opened: Opened, dataset: str, row: int, array: str, *, mode: str) -> npt.NDArray[np.uint8]:
    """Return a map as a picture uint8 [rows, cols, 4] on the scale of the dataset; patches not stored are transparent.

    Scalars are grey.
    """
    patches = tokens.patches(opened, dataset, row, array)
    known = bases.reference(opened, dataset, array)
    shape = tokens.shape_of(opened, dataset, array)
    missing = np.isnan(patches).any(axis=1)
    if mode == "pca":
        colours = _rgb(patches, known.basis, shape.grid)
    else:
        values = token_images.norms(patches)
        low, high = np.percentile(known.norms, (1, 99))
        if mode == "outlier":
            values, low, high = bases.outlier_scores(values, known), 0.0, 2 * bases.OUTLIER
        grey = np.nan_to_num(token_images.levels(values, float(low), float(high)) * 255)
        colours = np.repeat(np.rint(grey).astype(np.uint8).reshape(*shape.grid, 1), 3, axis=2)
    alpha = np.where(missing, 0, 255).astype(np.uint8).reshape(*shape.grid, 1)
    return np.concatenate([colours, alpha], axis=2)


def patch_values(opened: Opened, dataset: str, row: int, array: str, patch: int) -> dict[str, Any]:
    """Return the norm of a patch and the channels that stand out most, in standard deviations of the dataset."""
    shape = tokens.shape_of(opened, dataset, array)
    tokens.checked_patches([patch], shape)
    patches = tokens.patches(opened, dataset, row, array)
    values = patches[patch].astype(np.float64)
    place = list(divmod(patch, shape.grid[1]))
    if np.isnan(values).any():
        return {"patch": patch, "place": place, "norm": None, "channels": [], "note": "this patch is not stored"}
    mean, std = _moments(opened, dataset, array, patches)
    scores = np.divide(values - mean, std, out=np.zeros_like(values), where=std > 0)
    strongest = np.argsort(-np.abs(scores), kind="stable")[:TOP_CHANNELS].tolist()
    channels = [{"channel": c, "value": float(values[c]), "deviations": float(scores[c])} for c in strongest]
    return {"patch": patch, "place": place, "norm": float(np.linalg.norm(values)), "channels": channels, "note": None}


def _colours(
    opened: Opened, dataset: str, row: int, array: str, *, basis: str, shown: Sequence[Place]
) -> dict[str, Any]:
    patches = tokens.patches(opened, dataset, row, array)
    shape = tokens.shape_of(opened, dataset, array)
    used = bases.basis_of(opened, dataset, row, array, kind=basis, shown=shown)
    missing = np.isnan(patches).any(axis=1)
    colours = _rgb(patches, used, shape.grid)
    colours[missing.reshape(shape.grid)] = 0
    return {
        "grid": list(shape.grid),
        "kind": "rgb",
        "data": base64_of(colours, "u1"),
        "low": None,
        "high": None,
        "unit": "",
        "note": f"{int(missing.sum())} of {shape.patches} patches are not stored" if missing.any() else None,
        "missing": bases.mask_of(missing),
    }


def _rgb(patches: npt.NDArray[np.floating], basis: token_images.Basis, grid: tuple[int, int]) -> npt.NDArray[np.uint8]:
    known = np.where(np.isnan(patches), basis.mean.astype(patches.dtype), patches)
    return token_images.pca_rgb(known.reshape(*grid, -1), basis)


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _errors(
    opened: Opened, dataset: str, row: int, array: str, *, run: str
) -> tuple[npt.NDArray[np.float64], str | None]:
    if not opened.runs:
        raise errors.InvalidInput("no run is shown: start with codistill view CACHE --run RUN to see a student's error")
    of_run = tokens.parts_of(array)
    name, teacher = of_run or (run or next(iter(opened.runs)), array)
    if not teacher:
        raise errors.InvalidInput("the student itself has no error: choose a teacher or a projection")
    return opened.run(name).error(opened, dataset, row, teacher), f"student '{name}' against '{teacher}'"


def _moments(
    opened: Opened, dataset: str, array: str, patches: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of the channels as sealed; of the row itself where there is no seal."""
    try:
        sealed = opened.dataset(dataset).statistics(array).patch
    except (errors.NotSealed, errors.Damaged, errors.MissingName):
        known = np.asarray(patches, np.float64)
        return np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    return sealed.mean, sealed.std
