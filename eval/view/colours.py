"""Colours of scalar maps in pictures: the scales that the page has in colours.js, matplotlib's viridis and magma."""

import numpy as np
import numpy.typing as npt

STOPS = {
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b "
    "addc30 d8e219 fde725",
    "magma": "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 "
    "fec488 fde2a3 fcfdbf",
}


def painted(levels: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.uint8]:
    """Return colours uint8 [..., 3] of levels [...] from 0 to 1; NaN is grey.

    Args:
        levels: brightness.
        scale: `viridis` or `magma`.
    """
    stops = np.array([list(bytes.fromhex(stop)) for stop in STOPS[scale].split()], np.float64)
    place = np.nan_to_num(levels).clip(0, 1) * (len(stops) - 1)
    below = np.minimum(place.astype(np.int64), len(stops) - 2)
    share = (place - below)[..., None]
    colours = np.rint(stops[below] * (1 - share) + stops[below + 1] * share).astype(np.uint8)
    return np.where(np.isnan(levels)[..., None], np.uint8(128), colours)
