"""Which of the 256 sign vectors of a code belongs to a row: a dither that makes what is decoded unbiased.

A hash of the row number rather than its remainder: what rows show may repeat with a period that divides 256 (rendered
viewpoints, video), and would then meet the same signs for ever. Rows less than 144 apart never share a vector, and
all are used equally often.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from store.common.stateless_random import GOLDEN

SIGN_VECTORS = 256

Int64 = npt.NDArray[np.int64]


def sign_number(rows: npt.NDArray[Any]) -> Int64:
    """Return the number of the sign vector of each row, int64 like `rows`: `row * GOLDEN mod 2**64 >> 56`."""
    return ((np.asarray(rows).astype(np.uint64) * np.uint64(GOLDEN)) >> np.uint64(56)).astype(np.int64)
