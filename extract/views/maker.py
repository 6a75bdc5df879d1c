"""Make rows of pixels from an image: read, decode, sample views, render. Failures become failed rows with reasons."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from extract.catalogue import DatasetEntry, ViewRecipe
from extract.sources import Source
from extract.views.decode import DecodedImage, decode_with_notes
from extract.views.parameters import ViewParameters, center_view, sample_view
from extract.views.render import render
from extract.views.stored_jpeg import stored_form
from store.errors import DecodeError
from store.format.manifest import SCHEMA, PixelsRow
from store.format.schema import FAILED, OK


@dataclass(frozen=True, kw_only=True)
class ViewRow(PixelsRow):
    """One row of pixels.

    Attributes:
        notes: defects of an image whose row could still be made; see `DecodedImage.notes`.
    """

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ViewMaker:
    """Makes the pixels of one dataset. Safe to use from several threads.

    Attributes:
        entry: catalogue entry; its views, mode and numbering are those of the dataset in the cache.
        recipe: view recipe of the cache.
        images: image list of the dataset, as the cache stores it.
        source: source of the images.
        stored_name: name under which the rows are stored, that of a part; None for the dataset's own. Views do not
            depend on it.
    """

    entry: DatasetEntry
    recipe: ViewRecipe
    images: pa.Table
    source: Source
    stored_name: str | None = None

    def make(self, image: int, rows: range) -> list[ViewRow]:
        """Decode one image and render those of its views that lie within `rows`.

        Args:
            image: number of the image in the image list.
            rows: rows of the dataset.

        Raises:
            errors.MissingFile: the whole source has disappeared.
            OSError: the machine, not the image, is at fault.
        """
        path = str(self.images["path"][image].as_py())
        first = image * self.entry.views
        keys = [
            {
                "row": row,
                "dataset": self.stored_name or self.entry.name,
                "image_index": image,
                "path": path,
                "view": self.entry.first_view + row - first,
            }
            for row in range(max(rows.start, first), min(rows.stop, first + self.entry.views))
        ]
        rotation = self.entry.rotation_of(path)
        try:
            content = self.source.read(path, self.images["bytes"][image].as_py())
            decoded = decode_with_notes(content, rotation=rotation, allow_damaged_jpeg=self.entry.allow_damaged_jpeg)
        except DecodeError as error:
            return [_failed_row(key, str(error)) for key in keys]
        return [self._view(key, decoded, rotation) for key in keys]

    def _view(self, key: dict[str, Any], decoded: DecodedImage, rotation: int) -> ViewRow:
        upright = decoded.pixels
        try:
            parameters = self._parameters(key, upright)
            pixels = render(upright, parameters, image_size=self.recipe.image_size)
        except DecodeError as error:
            return _failed_row(key, str(error))
        row = _ok_row(key, pixels, parameters, source=upright, rotation=rotation)
        return replace(row, pixels=stored_form(pixels, self.recipe), notes=decoded.notes)

    def _parameters(self, key: dict[str, Any], upright: np.ndarray) -> ViewParameters:
        height, width = upright.shape[:2]
        if self.entry.mode == "center":
            return center_view(self.recipe.image_size, width=width, height=height)
        return sample_view(
            self.recipe, dataset=self.entry.name, path=key["path"], view=key["view"], width=width, height=height
        )


def manifest_table(rows: Sequence[PixelsRow]) -> pa.Table:
    """Return the manifest of these rows; values that a row does not have are null."""
    columns = {name: [row.record.get(name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def _ok_row(
    key: dict[str, Any], pixels: np.ndarray, parameters: ViewParameters, *, source: np.ndarray, rotation: int
) -> ViewRow:
    """Return a row with pixels.

    Args:
        key: row, dataset, image_index, path and view.
        pixels: uint8 (S, S, 3).
        parameters: parameters of the view.
        source: upright image, for its size.
        rotation: rotation by the rotate rule, degrees.
    """
    record = key | {
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
    return ViewRow(pixels=pixels, error=None, record=record | asdict(parameters.photometric))


def _failed_row(key: dict[str, Any], reason: str) -> ViewRow:
    """Return a row that could not be made, with the reason."""
    return ViewRow(pixels=None, error=reason, record=key | {"status": FAILED, "error": reason})
