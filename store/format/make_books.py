"""Makes `books.safetensors`, the codebooks of every code: k-means of Gaussian noise, 256 codewords of m values.

    python -m store.format.make_books

Takes a few minutes. The file that is shipped is the truth, not this recipe for it: linear algebra differs between
machines in the last bits, and caches hold copies of the books that they use.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from store.common import atomic

FILE = Path(__file__).with_name("books.safetensors")
SEED = 1
CODEWORDS = 256
VALUES = (1, 2, 4, 8, 16)
COARSE_SAMPLES, COARSE_STEPS = 2**17, 80
FINE_SAMPLES, FINE_STEPS = 2**20, 25
LEVEL_SAMPLES, LEVEL_STEPS = 2**22, 2000
BLOCK = 2**12
BLEND = 0.5  # what a codeword without samples takes over of the one that has most

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def main() -> None:
    """Make all books and write them."""
    books = {f"book_{values}": make_book(values, np.random.default_rng((SEED, values))) for values in VALUES}
    with atomic.replacing(FILE) as partial:
        partial.write_bytes(save(books))


def make_book(values: int, rng: np.random.Generator) -> Float32:
    """Return codewords float32 [256, m]: Lloyd's steps on few samples of noise, then on many.

    The book of one value ascends, so that a search can bisect; the others are ordered by their first value.
    """
    if values == 1:
        return make_levels(rng)[:, None].astype(np.float32)
    book = rng.standard_normal((CODEWORDS, values))
    for samples, steps in ((COARSE_SAMPLES, COARSE_STEPS), (FINE_SAMPLES, FINE_STEPS)):
        noise = rng.standard_normal((samples, values), dtype=np.float32)
        for _ in range(steps):
            book = lloyd_step(noise, book)
    return book[np.argsort(book[:, 0], kind="stable")].astype(np.float32)


def make_levels(rng: np.random.Generator, *, samples: int = LEVEL_SAMPLES, steps: int = LEVEL_STEPS) -> Float64:
    """Return the 256 levels of the book of one value, ascending.

    They begin as quantiles of a Gaussian of variance 3, the best density of many levels, and cells of sorted samples
    make a step cheap.
    """
    noise = np.sort(rng.standard_normal(samples))
    sums = np.concatenate([[0.0], np.cumsum(noise)])
    levels = noise[((np.arange(CODEWORDS) + 0.5) / CODEWORDS * samples).astype(np.int64)] * np.sqrt(3)
    for _ in range(steps):
        inner = np.searchsorted(noise, (levels[1:] + levels[:-1]) / 2)
        bounds = np.concatenate([[0], inner, [samples]])
        counts = np.diff(bounds)
        levels = np.where(counts > 0, np.diff(sums[bounds]) / np.maximum(counts, 1), levels)
    return np.asarray(levels)


def lloyd_step(noise: Float32, book: Float64) -> Float64:
    """Return the means of the samples [n, m] that are nearest to each codeword [256, m]."""
    nearest = nearest_codewords(noise, book.astype(np.float32))
    counts = np.bincount(nearest, minlength=CODEWORDS)
    sums = np.stack([np.bincount(nearest, column, CODEWORDS) for column in noise.T], axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    for empty in np.flatnonzero(counts == 0):
        means[empty] = BLEND * book[empty] + (1 - BLEND) * book[counts.argmax()]
    return np.asarray(means)


def nearest_codewords(noise: Float32, book: Float32) -> npt.NDArray[np.int64]:
    """Return the number of the codeword nearest to each sample, int64 [n]."""
    half = np.square(book).sum(axis=1) / 2
    blocks = (noise[first : first + BLOCK] for first in range(0, len(noise), BLOCK))
    return np.concatenate([(block @ book.T - half).argmax(axis=1) for block in blocks])


def distortion(noise: Float32, book: Float32) -> float:
    """Return the mean squared error a value of unit variance when samples [n, m] become their nearest codewords."""
    return float(np.square(noise - book[nearest_codewords(noise, book)], dtype=np.float64).mean())


if __name__ == "__main__":
    main()
