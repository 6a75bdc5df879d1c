"""JPEGs that libjpeg can only guess a part of, and those that are merely odd."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from extract.views.decode import DAMAGED_JPEG, decode, decode_with_notes
from store.errors import DecodeError
from tests.extract.builders import encoded, picture

RGB = picture(5, height=75, width=100)
BASE = encoded(RGB, "JPEG", quality=80)
PROGRESSIVE = encoded(RGB, "JPEG", progressive=True)
CMYK = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
GREY = encoded(RGB[..., 0], "JPEG")
MPO = encoded(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())])
KINDS = {"baseline": BASE, "progressive": PROGRESSIVE, "CMYK": CMYK, "grey": GREY, "MPO": MPO}
JUNK = np.random.default_rng(0).bytes(5000)


def claiming(content: bytes, height: int, width: int) -> bytes:
    """The same data below a header that claims another size."""
    at = max(content.find(marker) for marker in (b"\xff\xc0\0", b"\xff\xc2\0")) + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def corrupted(content: bytes) -> bytes:
    """Twenty bytes of the first scan are missing."""
    start = content.index(b"\xff\xda") + 20
    return content[:start] + content[start + 20 :]


def before_scan(content: bytes, inserted: bytes) -> bytes:
    at = content.index(b"\xff\xda")
    return content[:at] + inserted + content[at:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda content: claiming(content, 900, 900), "premature end of data segment", id="claims more"),
        pytest.param(lambda content: claiming(content, 40, 50), "extraneous bytes before marker", id="claims less"),
        pytest.param(lambda content: content[: len(content) // 3], "Premature end of JPEG file", id="cut short"),
        pytest.param(lambda content: content[: content.index(b"\xff\xd9")], "Premature end of JPEG file", id="no end"),
        pytest.param(corrupted, "Corrupt JPEG data", id="corrupt scan"),
        pytest.param(
            lambda content: before_scan(content, b"\0" * 11),
            "11 extraneous bytes before marker 0xda",
            id="junk in header",
        ),
    ],
)
def test_damaged_jpegs_fail_unless_they_are_allowed(kind: str, damage: Callable[[bytes], bytes], reason: str) -> None:
    content = damage(KINDS[kind])
    with pytest.raises(DecodeError, match=f"^damaged image: .*{reason}"):
        decode(content)
    allowed = decode_with_notes(content, allow_damaged_jpeg=True)
    assert allowed.notes == (DAMAGED_JPEG,)
    if kind != "CMYK" and "header" not in reason and "0xda" not in reason:
        np.testing.assert_array_equal(allowed.pixels, simplejpeg.decode_jpeg(content, "RGB", strict=False))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(lambda content: content, id="as it is"),
        pytest.param(lambda content: content + JUNK, id="bytes behind the end"),
        pytest.param(lambda content: content + BASE, id="a second image behind the end"),
        pytest.param(lambda content: content + b"\xff\xff\xff\0\xff", id="markers behind the end"),
        pytest.param(lambda content: content[:2] + segment(0xE2, b"ICC_PROFILE\0\x05\x02") + content[2:], id="bad ICC"),
        pytest.param(lambda content: content[:2] + segment(0xE2, b"MPF\0MM\0*\0\0") + content[2:], id="bad MPO index"),
        pytest.param(
            lambda content: content[:2] + segment(0xE0, b"JFIF\0\x07\x07\0\0\1\0\1\0\0") + content[2:], id="JFIF 7.7"
        ),
        pytest.param(lambda content: content[:2] + segment(0xFE, b"\xff\xd9" * 9) + content[2:], id="end in a comment"),
        pytest.param(lambda content: before_scan(content, b"\xff" * 7), id="fill bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO:UserWarning")
def test_odd_jpegs_are_no_damage(kind: str, odd: Callable[[bytes], bytes]) -> None:
    content = odd(KINDS[kind])
    decoded = decode_with_notes(content)
    assert decoded.notes == ()
    with Image.open(io.BytesIO(KINDS[kind])) as image:
        np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))


def test_colour_spaces_without_jfif_stay() -> None:
    """Adobe's segment and the components' numbers tell libjpeg the colours, so they are no metadata."""
    stored_as_rgb = encoded(RGB, "JPEG", keep_rgb=True, quality=95)
    assert np.abs(decode(stored_as_rgb).astype(int) - RGB).mean() < 5
    with Image.open(io.BytesIO(stored_as_rgb)) as image:
        np.testing.assert_array_equal(decode(stored_as_rgb), np.asarray(image.convert("RGB")))


def test_subsampling_that_simplejpeg_does_not_know() -> None:
    """Three luminance samples in a row for one of each colour: a flat grey picture, whose codes are known."""
    content = bytearray(encoded(np.full((8, 24, 3), 128, np.uint8), "JPEG", quality=75, subsampling=0))
    content[content.index(b"\xff\xc0") + 11] = 0x31
    bits = "001010" * 3 + "0000" * 2
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    content = content[: content.index(b"\xff\xda") + 14] + scan + b"\xff\xd9"
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(bytes(content))
    np.testing.assert_array_equal(decode(bytes(content)), np.full((8, 24, 3), 128))
