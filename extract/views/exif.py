"""Orientation of an image by its EXIF or XMP metadata.

Not by Pillow: damaged EXIF makes it raise a dozen kinds of errors, or warn, or keep silent where it stopped before.
Whether EXIF can be read, and what it then says, must not depend on the rest of the file.
"""

import re
import struct
from collections.abc import Mapping
from typing import Any

PREFIX = b"Exif\0\0"
BYTE_ORDERS = {b"II": "<", b"MM": ">"}
TIFF_VERSIONS = (42, 42 << 8)  # some cameras write it in the other byte order
ORIENTATION = 0x0112
ENTRY_BYTES = 12
UPRIGHT = 1
VALUE_FORMATS = {1: "B", 3: "H", 4: "I"}  # TIFF's types BYTE, SHORT and LONG
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation_of(info: Mapping[str | tuple[int, int], Any]) -> tuple[int, bool]:
    """Return the orientation that metadata gives, and whether its EXIF could be read.

    Args:
        info: metadata as Pillow names it: `exif`, `Raw profile type exif` (PNG), `xmp`, `XML:com.adobe.xmp` (PNG).

    Returns:
        Orientation 1-8, or a meaningless number as stored; upright if there is none. False if there is EXIF that cannot
        be read, which is ignored.
    """
    orientation, readable = None, True
    try:
        orientation = exif_orientation(_exif(info))
    except ValueError:
        readable = False
    if orientation is None:
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
        match = XMP_ORIENTATION.search(xmp.encode(errors="replace") if isinstance(xmp, str) else bytes(xmp))
        orientation = int(match[1]) if match else UPRIGHT
    return orientation, readable


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation in an EXIF block, `Exif\\0\\0` and a TIFF header first; None if it has none.

    Raises:
        ValueError: the block is damaged before an orientation was found.
    """
    content = exif
    while content.startswith(PREFIX):
        content = content[len(PREFIX) :]
    if not content:
        return None
    order = BYTE_ORDERS.get(content[:2])
    if order is None:
        raise ValueError("no byte order")
    version, start = _unpack(order + "HI", content, 2)
    if version not in TIFF_VERSIONS:
        raise ValueError(f"version {version}")
    orientation = None
    (entries,) = _unpack(order + "H", content, start)
    for entry in range(start + 2, start + 2 + entries * ENTRY_BYTES, ENTRY_BYTES):
        if entry + ENTRY_BYTES > len(content) and orientation is not None:
            break
        tag, kind, count, _ = _unpack(order + "HHII", content, entry)
        if tag == ORIENTATION and kind in VALUE_FORMATS and count == 1:
            (orientation,) = _unpack(order + VALUE_FORMATS[kind], content, entry + 8)
    return orientation


def _exif(info: Mapping[str | tuple[int, int], Any]) -> bytes:
    """Return the EXIF block, empty if there is none. Raises ValueError if it cannot be unpacked."""
    if "exif" in info:
        return bytes(info["exif"])
    profile = info.get("Raw profile type exif", "")  # of ImageMagick: two lines of header, then hexadecimal digits
    return bytes.fromhex("".join(str(profile).split("\n")[3:]))


def _unpack(layout: str, content: bytes, position: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, content, position)
    except struct.error as error:
        raise ValueError(f"cut short: {error}") from error
