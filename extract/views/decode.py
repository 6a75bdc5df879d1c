"""Decode the bytes of an image file to RGB uint8, always in the same way, or fail with a reason.

Rules for each kind of image (those of Pillow and `torchvision.datasets.ImageFolder`, with the exceptions noted):

- The content decides, not the extension. Formats: JPEG (and MPO), PNG, WebP, TIFF, GIF, BMP, PPM, JPEG 2000.
- EXIF orientations 1-8 are applied (unlike ImageFolder), then the dataset's rotate rule. EXIF that cannot be read is
  ignored, with a note.
- Greyscale is repeated on three channels; palettes are looked up; CMYK, YCbCr and bilevel go through `convert("RGB")`.
- Alpha and transparent palette entries are dropped, not composited: the stored colours below them show.
- 16 bits keep their high byte, grey and colour alike (Pillow alone would clip grey to white).
- Of several frames, the first is taken.
- ICC profiles and gamma are always ignored.
- Refused, with a reason: more than MAX_PIXELS, 32-bit integer and floating-point samples, truncated or damaged data.
  Also JPEGs of which libjpeg can only guess a part (other programs show them, partly grey), unless they are allowed.
  Bytes behind the end of a JPEG are no damage.

Colour and grey JPEGs are decoded by simplejpeg, with the same libjpeg-turbo and the same pixels as Pillow, 1.6 times as
fast (docs/extraction.md has the comparison).
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from extract.views import jpeg
from extract.views.exif import UPRIGHT, orientation_of
from store.errors import DecodeError

# MPO comes with JPEG. Never EPS, which runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
MAX_PIXELS = 89_478_485  # above it Pillow warns; 268 MB as RGB
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
REASON_LENGTH = 200
# Notes on images that could be decoded.
UNREADABLE_EXIF = "unreadable EXIF, ignored"
DAMAGED_JPEG = "damaged JPEG, allowed"


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8 (height, width, 3), RGB, writable, contiguous.
        notes: what is wrong with the file although it could be decoded: UNREADABLE_EXIF, DAMAGED_JPEG.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def decode(content: bytes, *, rotation: int = 0) -> np.ndarray:
    """Decode an image file to uint8 (height, width, 3); arguments and errors as of `decode_with_notes`."""
    return decode_with_notes(content, rotation=rotation).pixels


def decode_with_notes(content: bytes, *, rotation: int = 0, allow_damaged_jpeg: bool = False) -> DecodedImage:
    """Decode an image file.

    Args:
        content: bytes of the whole file.
        rotation: degrees counter-clockwise, a multiple of 90, applied after the EXIF orientation.
        allow_damaged_jpeg: accept JPEGs of which libjpeg has to guess a part.

    Raises:
        DecodeError: the image cannot be decoded; the reason is one line, `kind: details`.
    """
    if not content:
        raise DecodeError("empty file", "0 bytes")
    try:
        return _decode(content, rotation, allow_damaged_jpeg)
    except (DecodeError, MemoryError):  # running out of memory is the machine's fault, not the image's
        raise
    except Exception as error:  # whatever hostile bytes make a decoder raise; each format has its own kinds
        reason = " ".join(str(error).split())[:REASON_LENGTH] or "no details"
        raise DecodeError("damaged image", f"{reason} ({type(error).__name__})") from error


def _decode(content: bytes, rotation: int, allow_damaged_jpeg: bool) -> DecodedImage:
    notes = []
    parts = jpeg.split(content) if content.startswith(jpeg.START) else None
    with _open(content if parts is None else parts.image) as image:
        if parts is None:
            pixels = _load(image)
            info = image.info  # after loading: PNG may have EXIF behind the data
        else:
            pixels, damaged = _jpeg_pixels(image, parts.image, allow_damaged=allow_damaged_jpeg)
            info = parts.info
            notes += [DAMAGED_JPEG] * damaged
        orientation = UPRIGHT
        if image.format != "TIFF":  # whose orientation belongs to the image, and is applied by Pillow
            orientation, readable = orientation_of(info)
            notes += [UNREADABLE_EXIF] * (not readable)
    upright = np.ascontiguousarray(np.rot90(_upright(pixels, orientation), rotation // 90))
    return DecodedImage(pixels=upright, notes=tuple(notes))


def _open(content: bytes) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError("not an image", f"its {len(content)} bytes are of no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError("too large", f"more than {MAX_PIXELS} pixels") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DecodeError("too large", f"{width} x {height} px is more than {MAX_PIXELS} pixels")
    return image


def _load(image: Image.Image) -> np.ndarray:
    image.load()
    return np.array(_eight_bits(image).convert("RGB"))


def _jpeg_pixels(image: Image.Image, content: bytes, *, allow_damaged: bool) -> tuple[np.ndarray, bool]:
    """Decode a JPEG; return its pixels and whether it is damaged.

    simplejpeg is asked of every JPEG, as it alone tells of damage; what it cannot decode or convert, Pillow does.
    """
    pixels, damage = jpeg.decode_strictly(content)
    if damage is not None:
        if not allow_damaged:
            raise DecodeError("damaged image", damage)
        with _open(content + jpeg.END_OF_IMAGE) as ended:  # Pillow refuses data without an end
            return _load(ended), True
    return (_load(image) if pixels is None or image.mode not in ("RGB", "L") else pixels), False


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror pixels that are stored in this EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise DecodeError("unknown range", f"{kind} samples; store the image with 8 or 16 bits")
    return image
