"""Decode the bytes of an image file to RGB uint8, always in the same way, or fail with a reason.

Rules for each kind of image (those of Pillow and `torchvision.datasets.ImageFolder`, with the exceptions noted):

- The content decides, not the extension. Formats: JPEG (and MPO), PNG, WebP, TIFF, GIF, BMP, PPM, JPEG 2000.
- EXIF orientations 1-8 are applied (unlike ImageFolder), then the dataset's rotate rule.
- Greyscale is repeated on three channels; palettes are looked up; CMYK, YCbCr and bilevel go through `convert("RGB")`.
- Alpha and transparent palette entries are dropped, not composited: the stored colours below them show.
- 16 bits keep their high byte, grey and colour alike (Pillow alone would clip grey to white).
- Of several frames, the first is taken.
- ICC profiles and gamma are always ignored.
- Refused, with a reason: more than MAX_PIXELS, 32-bit integer and floating-point samples, truncated or damaged data.
  What libjpeg repairs on its own (a damaged stretch inside an otherwise whole JPEG) is accepted, as by other programs.

Colour and grey JPEGs are decoded by simplejpeg, with the same libjpeg-turbo and the same pixels as Pillow, 1.6 times as
fast (docs/extraction.md has the comparison).
"""

import io

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from store.errors import DecodeError

# MPO comes with JPEG. Never EPS, which runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
MAX_PIXELS = 89_478_485  # above it Pillow warns; 268 MB as RGB
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
REASON_LENGTH = 200


def decode(content: bytes, *, rotation: int = 0) -> np.ndarray:
    """Decode an image file.

    Args:
        content: bytes of the whole file.
        rotation: degrees counter-clockwise, a multiple of 90, applied after the EXIF orientation.

    Returns:
        uint8 (height, width, 3), RGB, writable, contiguous.

    Raises:
        DecodeError: the image cannot be decoded; the reason is one line, `kind: details`.
    """
    if not content:
        raise DecodeError("empty file", "0 bytes")
    try:
        return _decode(content, rotation)
    except (DecodeError, MemoryError):  # running out of memory is the machine's fault, not the image's
        raise
    except Exception as error:  # whatever hostile bytes make a decoder raise; each format has its own kinds
        reason = " ".join(str(error).split())[:REASON_LENGTH] or "no details"
        raise DecodeError("damaged image", f"{reason} ({type(error).__name__})") from error


def _decode(content: bytes, rotation: int) -> np.ndarray:
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError("not an image", f"its {len(content)} bytes are of no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError("too large", f"more than {MAX_PIXELS} pixels") from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DecodeError("too large", f"{width} x {height} px is more than {MAX_PIXELS} pixels")
        pixels = _fast_jpeg(image, content)
        if pixels is None:
            image.load()
            pixels = np.array(_eight_bits(image).convert("RGB"))
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # after load: PNG may keep it behind the data
    return np.ascontiguousarray(np.rot90(_upright(pixels, orientation), rotation // 90))


def _fast_jpeg(image: Image.Image, content: bytes) -> np.ndarray | None:
    """Decode a colour or grey JPEG; None for other images, and for damaged ones, which Pillow then reports."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        return np.asarray(simplejpeg.decode_jpeg(content, "RGB"))
    except ValueError:
        return None


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
