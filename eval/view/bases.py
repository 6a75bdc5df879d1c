"""Scales that maps share: principal components of a row, of the shown rows or of a dataset; norms of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.view import samples, tokens
from eval.view.opened import Opened
from eval.view.parameters import base64_of
from eval.view.tokens import Place
from store import errors
from store.inspection import token_images
from store.inspection.token_images import Basis

CLIP_PERCENT = 1.0
ROWS_OF_DATASET, PATCHES_OF_BASIS = 32, 4096
OUTLIER = 5.0  # robust standard deviations from the median norm
NORMAL_MAD = 1.4826  # standard deviation of normal values over their median absolute deviation


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a sample of a dataset says of an array.

    Attributes:
        basis: principal components.
        norms: float64 [S], norms of patches of the sample, ascending.
    """

    basis: Basis
    norms: npt.NDArray[np.float64]

    @property
    def median(self) -> float:
        """Median norm."""
        return float(np.median(self.norms))

    @property
    def deviation(self) -> float:
        """Robust standard deviation of norms, from the median absolute deviation."""
        return NORMAL_MAD * float(np.median(np.abs(self.norms - self.median)))


def reference(opened: Opened, dataset: str, array: str) -> Reference:
    """Return what a sample of a dataset says of an array; read once.

    Raises:
        errors.MissingShard: no row of the array is there yet.
    """

    def make() -> Reference:
        source = opened.dataset(dataset)
        rows = ROWS_OF_DATASET if tokens.parts_of(array) is None else 8  # a student computes each of them
        sample = samples.sample_of(opened, source, array, rows=rows, patches=PATCHES_OF_BASIS)
        basis = token_images.pca_basis(_finite(sample), clip_percent=CLIP_PERCENT)
        return Reference(basis=basis, norms=np.sort(token_images.norms(sample)))

    return opened.memory.get_or_make(
        ("reference", dataset, array), make, lambda made: made.norms.nbytes + made.basis.components.nbytes
    )


def basis_of(opened: Opened, dataset: str, row: int, array: str, *, kind: str, shown: Sequence[Place] = ()) -> Basis:
    """Return the basis that a map's colours are in; a student's projection is drawn in the colours of its teacher.

    Args:
        opened: what is shown.
        dataset, row, array: what the map is of.
        kind: `row`, `shown` (the row with those of `shown`) or `dataset`.
        shown: (dataset, row) of the rows that are shown with it; those without such tokens are left out.
    """
    array = _teacher_of(opened, dataset, row, array, kind=kind)
    if kind == "dataset":
        return reference(opened, dataset, array).basis
    rows = sorted({(dataset, row), *shown}) if kind == "shown" else [(dataset, row)]
    channels = tokens.shape_of(opened, dataset, array).channels

    def make() -> Basis:
        known = [_patches_or_none(opened, *place, array) for place in rows]
        parts = [patches for patches in known if patches is not None and patches.shape[1] == channels]
        step = max(1, sum(map(len, parts)) // PATCHES_OF_BASIS)
        return token_images.pca_basis(_finite(np.concatenate(parts)[::step]), clip_percent=CLIP_PERCENT)

    if kind == "row":
        tokens.read(opened, dataset, [row], array)  # of the row itself, why there are none is told
    key = ("basis", channels, array, tuple(rows))
    return opened.memory.get_or_make(key, make, lambda made: made.components.nbytes)


def outlier_scores(norms: npt.NDArray[np.float64], known: Reference) -> npt.NDArray[np.float64]:
    """Return by how many robust standard deviations norms differ from the median norm of the dataset."""
    spread = known.deviation
    return np.asarray((norms - known.median) / spread if spread > 0 else np.zeros_like(norms))


def mask_of(missing: npt.NDArray[np.bool_]) -> str | None:
    """Return which patches are not stored as base64 of uint8; None where all are."""
    return base64_of(missing, "u1") if missing.any() else None


def _teacher_of(opened: Opened, dataset: str, row: int, array: str, *, kind: str) -> str:
    """Return the teacher that a projection goes to, where its tokens are there; else the array itself."""
    of_run = tokens.parts_of(array)
    if of_run is None or not of_run[1]:
        return array
    try:
        if kind == "dataset":
            reference(opened, dataset, of_run[1])
        else:
            tokens.read(opened, dataset, [row], of_run[1])
        same = tokens.shape_of(opened, dataset, of_run[1]).channels == tokens.shape_of(opened, dataset, array).channels
    except errors.CodistillError:
        return array
    return of_run[1] if same else array


def _patches_or_none(opened: Opened, dataset: str, row: int, array: str) -> npt.NDArray[np.float16] | None:
    try:
        return tokens.patches(opened, dataset, row, array)
    except (errors.RowsNotOk, errors.MissingShard, errors.MissingName, errors.InvalidInput):
        return None


def _finite(patches: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(patches[np.isfinite(patches).all(axis=1)])
