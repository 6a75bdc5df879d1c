"""The search for codewords compiled, where numba is installed: the scores of `store.format.codeword_search`, in order.

Vectors go through the book in blocks, transposed, so that one instruction scores several of them; nothing is fused,
reordered or skipped, hence the numbers are those of numpy.

Legend: n vectors, m values of a codeword.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

LANES = 256  # vectors of a block: with their best scores they stay in the first-level cache

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

Kernel = Callable[[Float32, Float32, Float32, UInt8], None]
"""(values [n, m], book [256, m], half of the squared norms [256], result [n])."""


@cache
def compiled(size: int) -> Kernel | None:
    """Return the compiled search of codewords of `size` values, which runs without the interpreter's lock.

    None where numba is not installed.
    """
    try:
        import numba
    except ImportError:
        return None
    jit = numba.njit(nogil=True)
    take = jit(_taker(jit(_scorer(jit, size))))

    def search(values: Any, book: Any, half: Any, result: Any) -> None:
        block = np.zeros((size, LANES), np.float32)
        best, number = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
        new_best, new_number = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
        for first in range(0, len(values), LANES):
            last = min(first + LANES, len(values))
            for place in range(size):
                for lane in range(last - first):
                    block[place, lane] = values[first + lane, place]
            best[:], number[:] = -np.inf, 0
            for codeword in range(len(book)):
                take(block, book[codeword], half[codeword], np.int32(codeword), best, number, new_best, new_number)
                best, new_best, number, new_number = new_best, best, new_number, number
            for lane in range(last - first):
                result[first + lane] = number[lane]

    read = numba.types.Array(numba.float32, 2, "C", readonly=True)
    halves = numba.types.Array(numba.float32, 1, "C", readonly=True)
    kernel: Kernel = numba.njit(numba.void(read, read, halves, numba.uint8[::1]), nogil=True)(search)
    return kernel


def _scorer(jit: Any, size: int) -> Any:
    """Return a function of (block [m, lanes], codeword [m], lane): the sum of products in order, unrolled."""
    if size == 1:

        def score(block: Any, codeword: Any, lane: Any) -> Any:
            return block[0, lane] * codeword[0]

    else:
        before, last = jit(_scorer(jit, size - 1)), size - 1

        def score(block: Any, codeword: Any, lane: Any) -> Any:
            return before(block, codeword, lane) + block[last, lane] * codeword[last]

    return score


def _taker(score: Any) -> Any:
    """Return a function that keeps, for each lane, the better of the best codeword so far and another one.

    What is kept goes to other arrays: written in place, it would become a masked store, which takes much longer.
    """

    def take(
        block: Any, codeword: Any, half: Any, number: Any, best: Any, numbers: Any, new_best: Any, new_numbers: Any
    ) -> None:
        for lane in range(LANES):
            found = score(block, codeword, lane) - half
            better = found > best[lane]
            new_best[lane] = found if better else best[lane]
            new_numbers[lane] = number if better else numbers[lane]

    return take
