"""Images, label images and depth maps from files. Anything that cannot be read is an error that names the file."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from extract.errors import DecodeError
from extract.images import decode
from store.errors import InvalidInput, MissingFile


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) RGB, decoded as for extraction."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise MissingFile(f"image '{path}': cannot be read ({error.strerror})") from None
    except DecodeError as error:
        raise InvalidInput(f"image '{path}': {error}. A probe needs all of its images: replace it") from None


def read_labels(path: Path, lookup: np.ndarray) -> np.ndarray:
    """Read a label image as uint8 (H, W) classes, by `lookup` (256,) from stored values; palettes are not applied."""
    stored = _integers(path)
    if stored.size and stored.max() > 255:
        raise InvalidInput(f"labels '{path}': value {stored.max()}, expected at most 255. Are they raw instance ids?")
    return np.asarray(lookup[stored])


def read_depth_mm(path: Path) -> np.ndarray:
    """Read a 16-bit depth image as uint16 (H, W) in mm, 0 where unknown."""
    stored = _integers(path)
    if stored.size and stored.max() > np.iinfo(np.uint16).max:
        raise InvalidInput(f"depth '{path}': value {stored.max()}, expected 16 bits")
    return stored.astype(np.uint16)


def _integers(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            stored = np.array(image)
    except UnidentifiedImageError:
        raise InvalidInput(f"labels '{path}': not an image") from None
    except (OSError, SyntaxError) as error:
        raise MissingFile(f"labels '{path}': cannot be read ({error})") from None
    if stored.ndim != 2 or stored.dtype.kind not in "uib" or (stored.dtype.kind == "i" and stored.min(initial=0) < 0):
        raise InvalidInput(
            f"labels '{path}': expected one channel of whole numbers, found {stored.dtype} {stored.shape}"
        )
    return stored.astype(np.uint8) if stored.dtype.kind == "b" else stored
