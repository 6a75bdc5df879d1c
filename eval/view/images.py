"""Pictures of rows: stored pixels, and source photographs where they are at hand, as PNG or JPEG files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.view.opened import Opened, checked_row
from eval.view.records import RowRecord
from store import errors
from store.common.regular_files import open_below
from store.format.schema import PIXELS
from store.inspection.row_view import read_photograph

THUMBNAIL_QUALITY, PHOTOGRAPH_QUALITY = 85, 90
PNG, JPEG = "image/png", "image/jpeg"
CROP = ("crop_top", "crop_left", "crop_height", "crop_width")

Picture = tuple[bytes, str]  # file, media type


def pixels(opened: Opened, dataset: str, row: int, *, size: int | None) -> Picture:
    """Return the stored pixels of a row: every one of them as PNG, or smaller as JPEG.

    Args:
        opened: what is shown.
        dataset, row: the row.
        size: longest side of a thumbnail, px; None gives the pixels as they are.

    Raises:
        errors.RowsNotOk: the row failed or is missing.
    """

    def make() -> Picture:
        source = opened.dataset(dataset)
        values = source.read([checked_row(source, row)], [PIXELS])[PIXELS][0]
        return png(values) if size is None or size >= max(values.shape[:2]) else _smaller(values, size)

    return opened.memory.get_or_make(("pixels", dataset, row, size), make, lambda made: len(made[0]))


def photograph(opened: Opened, dataset: str, row: int, record: RowRecord, *, size: int) -> Picture:
    """Return the source photograph of a row as JPEG, upright and turned as its view was.

    Args:
        opened: what is shown.
        dataset, row: the row.
        record: what is recorded of it.
        size: longest side, px.

    Raises:
        errors.MissingFile: it is not at hand; the reason is told.
    """
    folder = opened.images_folder(opened.dataset(dataset))
    if folder is None:
        raise errors.MissingFile("no source photograph: start with --images NAME=FOLDER")

    def make() -> Picture:
        shown = read_photograph(folder, record.path, record.columns)
        if isinstance(shown, str):
            raise errors.MissingFile(shown)
        return _smaller(shown.pixels, size, quality=PHOTOGRAPH_QUALITY)

    return opened.memory.get_or_make(("photograph", dataset, row, size), make, lambda made: len(made[0]))


def has_photograph(opened: Opened, dataset: str, record: RowRecord) -> bool:
    """Return whether the source image of a row is at hand and its crop is known."""
    folder = opened.images_folder(opened.dataset(dataset))
    return folder is not None and record.columns.get("crop_height") is not None and _is_there(folder, record.path)


def crop_of(record: RowRecord) -> dict[str, Any] | None:
    """Return the crop of a row in its source image, px, with the size of that; None where it has no pixels."""
    columns = record.columns
    if any(columns.get(name) is None for name in CROP):
        return None
    sizes = {name: columns.get(name) for name in ("source_width", "source_height", "rotate_deg", "flip")}
    return {name.removeprefix("crop_"): columns[name] for name in CROP} | sizes


def png(values: npt.NDArray[np.uint8]) -> Picture:
    """Return pixels [h, w, 3 or 4] as PNG."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return file.getvalue(), PNG


def _smaller(values: npt.NDArray[np.uint8], size: int, *, quality: int = THUMBNAIL_QUALITY) -> Picture:
    image = Image.fromarray(values)
    image.thumbnail((size, size), reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue(), JPEG


def _is_there(folder: Path, path: str) -> bool:
    try:
        open_below(folder, path).close()
    except (OSError, errors.RefusedFile):
        return False
    return True
