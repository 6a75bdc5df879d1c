"""Manifest rows: what a stored view shows, in the columns of `store.manifest.SCHEMA`.

Sizes and crop are px of the image after EXIF orientation and rotate rule; `rotate_deg` is the rule's turn, counter-
clockwise. All are null where the image could not be decoded.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from extract.views import ViewParameters
from store.manifest import SCHEMA
from store.recompute import PixelsRow
from store.schema import FAILED, OK


def ok_row(
    place: dict[str, Any], pixels: np.ndarray, parameters: ViewParameters, *, source: np.ndarray, rotation: int
) -> PixelsRow:
    """A row that was made.

    Args:
        place: row, dataset, image_index, path and view.
        pixels: uint8 (S, S, 3).
        parameters: of the view.
        source: the upright image, for its size.
        rotation: by the rotate rule, degrees.
    """
    record = place | {
        "source_width": source.shape[1],
        "source_height": source.shape[0],
        "rotate_deg": rotation,
        "crop_top": parameters.top,
        "crop_left": parameters.left,
        "crop_height": parameters.height,
        "crop_width": parameters.width,
        "flip": parameters.flip,
        "status": OK,
    }
    return PixelsRow(pixels=pixels, error=None, record=record | asdict(parameters.photometric))


def failed_row(place: dict[str, Any], reason: str) -> PixelsRow:
    """A row that could not be made, with the reason."""
    return PixelsRow(pixels=None, error=reason, record=place | {"status": FAILED, "error": reason})


def manifest_table(rows: Sequence[PixelsRow]) -> pa.Table:
    """The manifest of these rows; what a row does not have is null."""
    columns = {name: [row.record.get(name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)
