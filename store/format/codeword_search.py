"""Which codeword is nearest: the same number from every way to find it.

The nearest of 256 has the largest `value . codeword - |codeword|^2 / 2`. These scores are defined as sums of float32
products, taken in the order of the values and rounded at each step; among equal ones the first codeword wins.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.codeword_kernels import Kernel, compiled

BLOCK_VECTORS = 2048  # their scores stay in the second-level cache
EPSILON = 2.0**-23
WORTH_COMPILING_VALUES = 1 << 24  # numpy takes a second or two

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

Search = Callable[[Float32], UInt8]
"""(values float32 [n, m]) -> number of the nearest codeword, uint8 [n]."""


def searcher(book: Float32) -> Search:
    """Return the fastest search of a book float32 [256, m]; for m 1 its values must ascend.

    Compiling takes seconds, once a process, so the first values are searched without.
    """
    if book.shape[1] == 1:
        return level_search(book)
    by_product, half, done = product_search(book), half_squares(book), 0
    kernel: Kernel | None = None

    def search(values: Float32) -> UInt8:
        nonlocal done, kernel
        done += values.size
        if done >= WORTH_COMPILING_VALUES and kernel is None:
            kernel = compiled(book.shape[1])
        if kernel is None:
            return by_product(values)
        result = np.empty(len(values), np.uint8)
        kernel(np.ascontiguousarray(values), book, half, result)
        return result

    return search


def level_search(book: Float32) -> Search:
    """Return the search of ascending levels, by bisection."""
    middles = (book[1:, 0] + book[:-1, 0]) / 2

    def search(values: Float32) -> UInt8:
        return np.asarray(np.searchsorted(middles, values[:, 0]), dtype=np.uint8)

    return search


def product_search(book: Float32) -> Search:
    """Return the search by a matrix product; where its rounding could decide, scores are taken in order."""
    half = half_squares(book)
    transposed = np.ascontiguousarray(book.T)
    sums = 4 * (book.shape[1] + 2) * EPSILON
    largest, offset = float(np.abs(book).max()) * sums, float(half.max()) * sums

    def search(values: Float32) -> UInt8:
        result = np.empty(len(values), np.uint8)
        for first in range(0, len(values), BLOCK_VECTORS):
            block = values[first : first + BLOCK_VECTORS]
            scores = block @ transposed
            scores -= half
            nearest = scores.argmax(axis=1)
            doubt = np.abs(block).sum(axis=1) * np.float32(largest) + np.float32(offset)
            limit = np.take_along_axis(scores, nearest[:, None], axis=1) - doubt[:, None]
            unsure = np.flatnonzero(np.count_nonzero(scores >= limit, axis=1) > 1)
            if unsure.size:
                nearest[unsure] = ordered_scores(block[unsure], book).argmax(axis=1)
            result[first : first + BLOCK_VECTORS] = nearest
        return result

    return search


def ordered_scores(values: Float32, book: Float32) -> Float32:
    """Return the scores as they are defined, float32 [n, 256]."""
    scores = values[:, :1] * book[:, 0]
    for place in range(1, book.shape[1]):
        scores += values[:, place, None] * book[:, place]
    scores -= half_squares(book)
    return np.asarray(scores)


def half_squares(book: Float32) -> Float32:
    """Return half of the squared norm of each codeword, float32 [256]."""
    return np.asarray(np.square(book, dtype=np.float64).sum(axis=1) / 2, dtype=np.float32)


def scale_bytes(values: npt.NDArray[Any]) -> UInt8:
    """Return the byte of the scale nearest, in steps of log2 / 16, to the root mean square of each row of [n, k]."""
    squares = np.einsum("nk,nk->n", values, values) / values.shape[1]
    steps = 8 * np.log2(np.maximum(squares, np.float32(2.0**-40)), dtype=np.float64) + 128
    return np.asarray(np.clip(np.rint(steps), 0, 255), dtype=np.uint8)
