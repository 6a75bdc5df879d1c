"""From an image of a dataset to rows of pixels: read, decode, draw; what cannot be done is a failed row, with why."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from extract.catalogue import DatasetEntry, Recipe
from extract.errors import DecodeError
from extract.images import decode
from extract.pixels import render
from extract.records import failed_row, ok_row
from extract.sources import Source
from extract.views import ViewParameters, center, draw
from store.recompute import PixelsRow


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
    recipe: Recipe
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
