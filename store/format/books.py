"""Codebooks that every code shares: 256 codewords of m values for Gaussian noise of unit variance.

A group of rotated components divided by its own root mean square is nearly Gaussian whatever the data, so books need no
training on data. `store.format.make_books` made the file; a cache holds copies of the books that it uses.
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

CODEWORDS = 256
DISTORTION = {1: 0.0000413, 2: 0.0079, 4: 0.0970, 8: 0.3215, 16: 0.5793}
"""Mean squared error of each book on fresh noise, by m, the values of a codeword: 8, 4, 2, 1 and 0.5 bits a value."""
SIZES = tuple(DISTORTION)

Float32 = npt.NDArray[np.float32]


@cache
def load() -> dict[int, Float32]:
    """Return the books that are shipped: m -> float32 [256, m], read-only. The values of `book_1` ascend."""
    tensors = load_file(Path(__file__).with_name("books.safetensors"))
    books = {size: np.ascontiguousarray(tensors[f"book_{size}"]) for size in SIZES}
    for book in books.values():
        book.flags.writeable = False
    return books


def noise(size: int) -> float:
    """Return U of a book: variance of the noise over that of the signal, once a gain has made the slope 1."""
    return DISTORTION[size] / (1 - DISTORTION[size])
