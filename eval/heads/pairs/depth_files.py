"""Depth maps in the files that datasets use: 16-bit PNG, PFM, float3, HDF5, NumPy, COLMAP's dense maps.

All return floats (H, W). What stands for unknown depth differs: see each reader of a layout.
"""

import io
import re

import numpy as np
from PIL import Image, UnidentifiedImageError

from eval.heads.pairs.files import Tree
from store.errors import Damaged, InvalidInput, MissingExtra

LARGEST_SIDE = 2**15
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def png_depth(tree: Tree, name: str) -> np.ndarray:
    """Return the integers of a single-channel 16-bit PNG as float64.

    Raises:
        InvalidInput: another kind of image.
    """
    try:
        with Image.open(io.BytesIO(tree.read(name)), formats=("PNG",)) as image:
            if image.mode not in SIXTEEN_BIT_MODES:
                raise InvalidInput(f"{tree.where(name)}: expected a 16-bit grey PNG, found mode {image.mode}")
            return np.asarray(image).astype(np.float64)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"{tree.where(name)}: not a whole PNG ({error}). Copy it again") from None


def png_half_depth(tree: Tree, name: str) -> np.ndarray:
    """Return the numbers of a 16-bit PNG whose 16 bits are those of a float16, as CO3D stores depth."""
    return png_depth(tree, name).astype(np.uint16).view(np.float16).astype(np.float64)


def pfm_depth(tree: Tree, name: str) -> np.ndarray:
    """Return the numbers of a grey PFM: a text header, then float32 rows from the bottom up."""
    content = tree.read(name)
    header = re.match(rb"Pf\s+(\d{1,6})\s+(\d{1,6})\s+(-?[\d.]{1,20}(?:e[+-]?\d{1,3})?)\s", content)
    if header is None:
        raise InvalidInput(f"{tree.where(name)}: expected a grey PFM, whose first line is 'Pf'")
    width, height = int(header[1]), int(header[2])
    order = "<f4" if header[3].startswith(b"-") else ">f4"
    return _floats(tree, name, content[header.end() :], (height, width), order)[::-1]


def float3_array(tree: Tree, name: str) -> np.ndarray:
    """Return the array of a `.float3` file: 'float', the number of axes, their lengths (fastest first), float32."""
    content = tree.read(name)
    header = re.match(rb"float\n([1-3])\n", content)
    lengths = re.match(rb"(?:\d{1,6}\n){%d}" % int(header[1]), content[header.end() :]) if header else None
    if header is None or lengths is None:
        raise InvalidInput(f"{tree.where(name)}: expected a .float3 file, whose first line is 'float'")
    shape = tuple(int(length) for length in reversed(lengths[0].split()))
    return _floats(tree, name, content[header.end() + lengths.end() :], shape, "<f4")


def colmap_depth(tree: Tree, name: str) -> np.ndarray:
    """Return the numbers of a dense map of COLMAP (`.geometric.bin`): 'width&height&1&', then float32 rows."""
    content = tree.read(name)
    header = re.match(rb"(\d{1,6})&(\d{1,6})&1&", content)
    if header is None:
        raise InvalidInput(f"{tree.where(name)}: expected a depth map of COLMAP, which begins 'width&height&1&'")
    return _floats(tree, name, content[header.end() :], (int(header[2]), int(header[1])), "<f4")


def h5_depth(tree: Tree, name: str, dataset: str) -> np.ndarray:
    """Return a dataset of an HDF5 file.

    Raises:
        MissingExtra: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtra("'h5py' is not installed. Run: pip install 'codistill[heads]'") from None
    try:
        with h5py.File(io.BytesIO(tree.read(name)), "r") as file:
            stored = file.get(dataset)
            if not isinstance(stored, h5py.Dataset):
                raise InvalidInput(f"{tree.where(name)}: no dataset '{dataset}'; it has {', '.join(file)}")
            if stored.dtype.kind not in "fiu" or stored.ndim != 2 or max(stored.shape) > LARGEST_SIDE:
                raise InvalidInput(
                    f"{tree.where(name)}: expected a map of numbers, found {stored.dtype} {stored.shape}"
                )
            return np.asarray(stored[()], dtype=np.float64)
    except OSError as error:
        raise Damaged(f"{tree.where(name)}: not a whole HDF5 file ({error}). Copy it again") from None


def depth_file(tree: Tree, name: str, *, unit: float = 1000.0) -> np.ndarray:
    """Return a depth map by the suffix of its file: .png (over `unit`), .npy, .pfm, .float3, .bin (COLMAP).

    Raises:
        InvalidInput: another suffix.
    """
    if name.endswith(".png"):
        return png_depth(tree, name) / unit
    if name.endswith(".npy"):
        return tree.array(name).astype(np.float64)
    if name.endswith(".pfm"):
        return pfm_depth(tree, name)
    if name.endswith(".float3"):
        return float3_array(tree, name)
    if name.endswith(".bin"):
        return colmap_depth(tree, name)
    raise InvalidInput(f"{tree.where(name)}: expected a depth map .png, .npy, .pfm, .float3 or .bin")


def _floats(tree: Tree, name: str, content: bytes, shape: tuple[int, ...], order: str) -> np.ndarray:
    expected = int(np.prod(shape)) * 4
    if max(shape, default=0) > LARGEST_SIDE or len(content) != expected:
        sides = " x ".join(map(str, shape))
        raise Damaged(f"{tree.where(name)}: {len(content)} bytes of numbers, expected {expected} for {sides}")
    return np.frombuffer(content, dtype=order).reshape(shape).astype(np.float64)
