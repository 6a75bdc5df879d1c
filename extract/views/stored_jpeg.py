"""The form in which a finished view is stored: raw, or as a JPEG that teachers and students see decoded."""

import numpy as np

from extract.catalogue import ViewRecipe
from store.format import jpeg
from store.format.jpeg import EncodedPixels


def stored_form(pixels: np.ndarray, recipe: ViewRecipe) -> np.ndarray | EncodedPixels:
    """Return the pixels of a view as the recipe stores them, uint8 (S, S, 3) or a JPEG of them."""
    return jpeg.encoded(pixels) if recipe.pixels == "jpeg" else pixels
