"""Every kind of image file becomes RGB as documented, or gives a reason."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from extract.views.decode import MAX_PIXELS, decode
from store.errors import DecodeError
from tests.extract.builders import encoded, picture

RGB = picture(5, height=20, width=30)
GREY = RGB[..., 0]
GREY3 = np.repeat(GREY[..., None], 3, axis=2)
SIXTEEN = (GREY.astype(np.uint16) << 8) | 0x7F


def png_16_bit_colour() -> bytes:
    """Pillow cannot write these: each sample is its 8-bit value and another low byte."""
    rows = b"".join(b"\0" + np.stack([row, 255 - row], axis=-1).tobytes() for row in RGB)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def palette() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(RGB).quantize(16)
    return encoded(image, transparency=3), np.array(image.convert("RGB"))


def with_alpha() -> bytes:
    return encoded(np.dstack([RGB, np.zeros_like(GREY)]))


def cmyk() -> tuple[bytes, np.ndarray]:
    content = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    return content, np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(frame) for frame in (GREY, 255 - GREY)]
    return encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: encoded(RGB), RGB, id="png"),
        pytest.param(lambda: encoded(RGB, "BMP"), RGB, id="bmp"),
        pytest.param(lambda: encoded(RGB, "PPM"), RGB, id="ppm"),
        pytest.param(lambda: encoded(RGB, "WEBP", lossless=True), RGB, id="webp"),
        pytest.param(lambda: encoded(RGB, "TIFF", compression="tiff_lzw"), RGB, id="tiff"),
        pytest.param(lambda: encoded(RGB, "JPEG2000", irreversible=False), RGB, id="jpeg2000"),
        pytest.param(lambda: encoded(GREY), GREY3, id="grey"),
        pytest.param(
            lambda: encoded(Image.fromarray(GREY > 99)), np.repeat((GREY > 99)[..., None], 3, 2) * 255, id="bilevel"
        ),
        pytest.param(with_alpha, RGB, id="transparent everywhere"),
        pytest.param(lambda: encoded(np.dstack([GREY, GREY])), GREY3, id="grey and alpha"),
        pytest.param(lambda: encoded(SIXTEEN), GREY3, id="16 bit grey png"),
        pytest.param(lambda: encoded(SIXTEEN, "TIFF"), GREY3, id="16 bit grey tiff"),
        pytest.param(png_16_bit_colour, RGB, id="16 bit colour png"),
        pytest.param(lambda: animated("GIF"), GREY3, id="animated gif"),
        pytest.param(lambda: animated("WEBP"), GREY3, id="animated webp"),
        pytest.param(lambda: animated("TIFF"), GREY3, id="pages of a tiff"),
        pytest.param(lambda: encoded(RGB[:1, :1]), RGB[:1, :1], id="one pixel"),
        pytest.param(
            lambda: encoded(np.tile(RGB[:2], (1, 1000, 1))), np.tile(RGB[:2], (1, 1000, 1)), id="30000 px wide"
        ),
    ],
)
def test_becomes_rgb(make: Callable[[], bytes], expected: np.ndarray) -> None:
    pixels = decode(make())
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("make", [palette, cmyk])
def test_as_pillow_converts(make: Callable[[], tuple[bytes, np.ndarray]]) -> None:
    content, expected = make()
    np.testing.assert_array_equal(decode(content), expected)


def test_jpeg_is_near_the_original() -> None:
    smooth = picture(0, height=64, width=64) // 4 + 60
    assert np.abs(decode(encoded(smooth, "JPEG", quality=95)).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientations_all_end_upright(kind: str) -> None:
    stored_as = {  # EXIF orientation -> how an upright picture is stored under it
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    for orientation, stored in stored_as.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(np.ascontiguousarray(stored(RGB)), kind, exif=exif, **options)
        decoded = decode(content).astype(int)
        assert decoded.shape == RGB.shape, orientation
        assert np.abs(decoded - RGB).max() <= (30 if kind == "JPEG" else 0), orientation


def test_rotation_is_counter_clockwise_and_after_exif() -> None:
    for degrees in (90, 180, 270):
        np.testing.assert_array_equal(decode(encoded(RGB), rotation=degrees), np.rot90(RGB, degrees // 90))


def test_colour_profiles_change_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(decode(encoded(RGB, icc_profile=profile)), RGB)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file: 0 bytes"),
        (b"a text file named .jpg", "not an image: its 22 bytes are of no known format"),
        (encoded(RGB, "JPEG")[:-60], "damaged image: Premature end of JPEG file"),
        (encoded(RGB)[:200], "damaged image: "),
        (encoded(RGB, "JPEG")[:30], "not an image: |damaged image: "),
        (encoded(np.ones((4, 4), np.float32), "TIFF"), "unknown range: floating-point samples"),
        (encoded(np.ones((4, 4), np.int32), "TIFF"), "unknown range: 32-bit integer samples"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_reasons(content: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=f"^(?:{reason})"):
        decode(content)


def bomb(side: int) -> bytes:
    """A PNG that claims `side` x `side` px and holds next to nothing."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data)) + b"IDAT" + data


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9460, 30_000])
def test_bombs_are_refused_before_they_unfold(side: int) -> None:
    assert side * side > MAX_PIXELS
    with pytest.raises(DecodeError, match=r"^too large: "):
        decode(bomb(side))


def test_every_truncation_gives_pixels_or_a_reason() -> None:
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        content = encoded(RGB, kind)
        for length in range(0, len(content), max(1, len(content) // 40)):
            with contextlib.suppress(DecodeError):
                assert decode(content[:length]).shape == RGB.shape
