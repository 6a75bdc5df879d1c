"""Orientation by EXIF and XMP; what cannot be read is ignored and noted."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from extract.views.decode import UNREADABLE_EXIF, decode_with_notes
from extract.views.exif import exif_orientation, orientation_of
from tests.extract.builders import encoded, picture

RGB = picture(5, height=20, width=30)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif(order: str, *entries: tuple[int, int, int, int], count: int | None = None) -> bytes:
    """An EXIF block of entries (tag, type, count, value)."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    body = struct.pack(order + "H", len(entries) if count is None else count)
    for tag, kind, number, value in entries:
        packed = struct.pack(order + {1: "B3x", 3: "H2x"}.get(kind, "I"), value)
        body += struct.pack(order + "HHI", tag, kind, number) + packed
    return b"Exif\0\0" + head + body + bytes(4)


def with_exif(kind: str, block: bytes) -> bytes:
    """An image of this kind that carries any bytes as EXIF."""
    if kind == "PNG":
        content = encoded(RGB)
        chunk = b"eXIf" + block.removeprefix(b"Exif\0\0")
        return (
            content[:33]
            + struct.pack(">I", len(chunk) - 4)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + content[33:]
        )
    if kind == "WEBP":
        return encoded(RGB, "WEBP", lossless=True, exif=block)
    content = encoded(RGB, "JPEG", quality=100, subsampling=0)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_blocks(order: str) -> None:
    for kind in (1, 3, 4):
        assert exif_orientation(exif(order, (0x010F, 3, 1, 9), (0x0112, kind, 1, 6))) == 6
    assert exif_orientation(exif(order, (0x010F, 3, 1, 9))) is None
    assert exif_orientation(exif(order, (0x0112, 2, 1, 6))) is None  # text
    assert exif_orientation(exif(order, (0x0112, 3, 1, 6), count=900)) == 6  # found before the block ends
    assert exif_orientation(b"") is None
    assert exif_orientation(b"Exif\0\0") is None


BROKEN = {
    "junk": b"Exif\0\0" + b"\x07junk" * 9,
    "no directory": b"Exif\0\0MM\0*",
    "directory outside": b"Exif\0\0MM\0*\x7f\xff\xff\xff",
    "cut short": exif("<", (0x010F, 3, 1, 9), (0x0112, 3, 1, 6))[:-14],
    "more entries than bytes": exif(">", (0x010F, 3, 1, 9), count=60_000),
    "another version": exif("<", (0x0112, 3, 1, 6)).replace(b"II*", b"II?"),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", BROKEN.values(), ids=BROKEN)
def test_unreadable_exif_is_ignored_and_noted(kind: str, block: bytes) -> None:
    """No warning either, which tests treat as an error."""
    decoded = decode_with_notes(with_exif(kind, block))
    assert decoded.notes == (UNREADABLE_EXIF,)
    assert decoded.pixels.shape == RGB.shape
    assert np.abs(decoded.pixels.astype(int) - RGB).max() <= (30 if kind == "JPEG" else 0)
    readable = decode_with_notes(with_exif(kind, exif("<", (0x0112, 3, 1, 6))))
    assert readable.notes == ()
    assert readable.pixels.shape == (30, 20, 3)


def test_metadata_of_other_tools() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n      40\n" + exif("<", (0x0112, 3, 1, 8)).hex())
    assert decode_with_notes(encoded(RGB, pnginfo=text)).pixels.shape == (30, 20, 3)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n      40\nxyz")
    assert decode_with_notes(encoded(RGB, pnginfo=text)).notes == (UNREADABLE_EXIF,)
    assert decode_with_notes(encoded(RGB, "JPEG", xmp=XMP)).pixels.shape == (30, 20, 3)
    both = with_exif("JPEG", BROKEN["junk"])
    assert orientation_of({"exif": BROKEN["junk"], "xmp": XMP}) == (6, False)
    assert orientation_of({"XML:com.adobe.xmp": XMP.decode()}) == (6, True)
    assert decode_with_notes(both).notes == (UNREADABLE_EXIF,)


def test_no_change_of_exif_fails_an_image() -> None:
    """Whatever bytes change, the pixels are there; where Pillow reads an orientation without a warning, so do we."""
    good = Image.Exif()
    good[ExifTags.Base.Make], good[ExifTags.Base.Orientation], good[ExifTags.Base.XResolution] = "maker", 6, 72.0
    block = good.tobytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(block)
        for position in random.integers(6, len(block), size=2):
            changed[position] = int(random.integers(256))
        content = with_exif("JPEG", bytes(changed))
        decoded = decode_with_notes(content)
        assert sorted(decoded.pixels.shape[:2]) == [20, 30]
        try:
            with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(content)) as image:
                expected = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:
            continue
        assert (decoded.pixels.shape[0] == 30) == (expected in (5, 6, 7, 8))
