"""Pixels as JPEG: encoding of a finished view, and decoding to the pixels that everyone sees. No input or output.

Quality 95, no chroma subsampling, the slow integer DCT: with these, every decoder built on libjpeg-turbo gives the same
pixels, and photographs take a fifth of their bytes. Encoded by Pillow, because simplejpeg takes the fast DCT below
quality 96 whatever it is asked for; decoded by simplejpeg where it is installed, which is quicker, else by Pillow.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.format.layout import checksum

QUALITY = 95
CODEC = "imagecodecs_jpeg"  # name under which zarr-python finds a reader: ours, or that of imagecodecs
CONFIGURATION = {"level": QUALITY, "subsampling": "444"}
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = b"\xff\xd8\xff", b"\xff\xd9", 0xDA
NO_DECODER = "pixels of this cache are stored as JPEG, and nothing that decodes them is installed"
EXTRA = "pip install 'codistill[inspect]'"

Pixels = npt.NDArray[np.uint8]
Decoder = Callable[[Any, Pixels], None]


@dataclass(frozen=True, kw_only=True)
class EncodedPixels:
    """Pixels of one row in their stored form.

    Attributes:
        data: JPEG file.
        crc32c: crc32c of the decoded pixels.
    """

    data: bytes
    crc32c: int


def encoded(pixels: Pixels) -> EncodedPixels:
    """Encode the pixels of a view, and decode them again: what comes out is what everybody sees.

    Args:
        pixels: uint8 [H, W, 3].

    Raises:
        errors.MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise errors.MissingExtra(f"writing pixels as JPEG needs pillow. Run: {EXTRA}") from error
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=0)
    data = file.getvalue()
    decoded = np.empty_like(pixels)
    decode(data, decoded)
    return EncodedPixels(data=data, crc32c=checksum(decoded))


def decode(data: Any, out: Pixels) -> None:
    """Decode a JPEG file into memory, without holding the interpreter lock.

    Args:
        data: JPEG file, any buffer.
        out: uint8 [H, W, 3], contiguous and writable.

    Raises:
        errors.InvalidInput: it is damaged, or an image of another size; the reason is given.
        errors.MissingExtra: no decoder is installed.
    """
    _decoder()[1](data, out)


def decoder_name() -> str:
    """Return the decoder that `decode` uses, with its version, for messages."""
    return _decoder()[0]


def pixels_checksum(row: Pixels | EncodedPixels) -> int:
    """Return the crc32c of the pixels that readers see of a row to be stored."""
    return row.crc32c if isinstance(row, EncodedPixels) else checksum(np.ascontiguousarray(row))


def end_of(data: bytes, start: int) -> int | None:
    """Return where the JPEG file that begins at `start` ends, by its own structure; None if it is not whole."""
    position = start + 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == START_OF_SCAN:
            end = data.find(END_OF_IMAGE, position)  # bytes 0xFF within the scan are followed by zero
            return None if end < 0 else end + len(END_OF_IMAGE)
    return None


@cache
def _decoder() -> tuple[str, Decoder]:
    try:
        import simplejpeg
    except ImportError:
        return _pillow()
    from importlib.metadata import version

    decode_jpeg = simplejpeg.decode_jpeg

    def decode(data: Any, out: Pixels) -> None:
        try:
            found = decode_jpeg(data, "RGB", buffer=out)
        except ValueError as error:
            raise errors.InvalidInput(f"no JPEG of {_size(out.shape)}: {error}") from None
        _check_size(found.shape, out)

    return f"simplejpeg {version('simplejpeg')}", decode


def _pillow() -> tuple[str, Decoder]:
    try:
        import PIL
        from PIL import Image
    except ImportError as error:
        raise errors.MissingExtra(f"{NO_DECODER}. Run: {EXTRA}") from error

    def decode(data: Any, out: Pixels) -> None:
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                _check_size((image.height, image.width, len(image.getbands())), out)
                out[:] = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            reason = str(error) if isinstance(error, errors.InvalidInput) else f"no JPEG of {_size(out.shape)}: {error}"
            raise errors.InvalidInput(reason) from None

    return f"pillow {PIL.__version__}", decode


def _check_size(shape: tuple[int, ...], out: Pixels) -> None:
    if tuple(shape) != out.shape:
        raise errors.InvalidInput(f"expected an image of {_size(out.shape)}, found {_size(shape)}")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
