"""From an image of a dataset to rows of pixels: read, decode, draw; what cannot be done is a failed row, with why."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from extract.catalogue import DatasetEntry, ViewRecipe
from extract.sources import Source
from extract.views.decode import decode
from extract.views.parameters import ViewParameters, center, draw
from extract.views.render import render
from store.errors import DecodeError
from store.format.manifest import SCHEMA, PixelsRow
from store.format.schema import FAILED, OK


@dataclass(frozen=True, kw_only=True)
class ViewMaker:
    """Makes the pixels of one dataset. Safe to use from several threads.

    Attributes:
        entry: of the catalogue; its views, mode and numbering are those of the dataset in the cache.
        recipe: of the cache.
        images: the dataset's image list, as the cache keeps it.
        source: where the images are.
    """

    entry: DatasetEntry
    recipe: ViewRecipe
    images: pa.Table
    source: Source

    def make(self, image: int, rows: range) -> list[PixelsRow]:
        """Decode one image and draw those of its views that lie within `rows`.

        Args:
            image: number in the image list.
            rows: of the dataset.

        Raises:
            errors.MissingFile: the whole source has gone.
            OSError: the machine, not the image, is at fault.
        """
        path = str(self.images["path"][image].as_py())
        first = image * self.entry.views
        places = [
            {
                "row": row,
                "dataset": self.entry.name,
                "image_index": image,
                "path": path,
                "view": self.entry.first_view + row - first,
            }
            for row in range(max(rows.start, first), min(rows.stop, first + self.entry.views))
        ]
        rotation = self.entry.rotation_of(path)
        try:
            content = self.source.read(path, self.images["bytes"][image].as_py())
            upright = decode(content, rotation=rotation)
        except DecodeError as error:
            return [failed_row(place, str(error)) for place in places]
        return [self._view(place, upright, rotation) for place in places]

    def _view(self, place: dict[str, Any], upright: np.ndarray, rotation: int) -> PixelsRow:
        try:
            parameters = self._parameters(place, upright)
            pixels = render(upright, parameters, image_size=self.recipe.image_size)
        except DecodeError as error:
            return failed_row(place, str(error))
        return ok_row(place, pixels, parameters, source=upright, rotation=rotation)

    def _parameters(self, place: dict[str, Any], upright: np.ndarray) -> ViewParameters:
        height, width = upright.shape[:2]
        if self.entry.mode == "center":
            return center(self.recipe.image_size, width=width, height=height)
        return draw(
            self.recipe, dataset=place["dataset"], path=place["path"], view=place["view"], width=width, height=height
        )


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
