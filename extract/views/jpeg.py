"""JPEG files: metadata apart from the image, and whether libjpeg had to guess.

libjpeg fills in what damaged data lack and merely warns. Pillow does not pass the warnings on, simplejpeg does.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg

START = b"\xff\xd8\xff"
END_OF_IMAGE = b"\xff\xd9"
APP0, APP1, APP14, APP15, COMMENT, START_OF_SCAN, END = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDA, 0xD9
WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9)}
JFIF, JFIF_VERSION = b"JFIF\0", b"\x01\x01"
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
# Beginnings of libjpeg's warnings about the image itself; others are about versions, profiles and colour spaces.
DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """A JPEG file in two parts.

    Attributes:
        image: the file without metadata that the pixels do not depend on: comments, EXIF, XMP, profiles, previews.
        info: metadata as Pillow names it: `exif`, `xmp`.
    """

    image: bytes
    info: dict[str | tuple[int, int], Any]


def split(content: bytes) -> Jpeg:
    """Part a JPEG file; damage stays where it is."""
    parts: list[bytes] = [content[:2]]
    info: dict[str | tuple[int, int], Any] = {}
    position = 2
    while position + 4 <= len(content):
        marker = content[position + 1] if content[position] == 0xFF else None
        if marker in (START_OF_SCAN, END):
            break
        if marker is None or marker in WITHOUT_LENGTH or marker == 0xFF:  # junk, or a byte that fills a gap
            following = content.find(b"\xff", position + 1)
            if following < 0:
                break
            parts.append(content[position:following])
            position = following
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if not position + 4 <= end <= len(content):
            break
        parts.append(_kept(marker, content[position:end], info))
        position = end
    parts.append(content[position:])
    return Jpeg(image=b"".join(parts), info=info)


def decode_strictly(image: bytes) -> tuple[np.ndarray | None, str | None]:
    """Decode a JPEG and find out whether it is damaged.

    Args:
        image: JPEG file, better without metadata.

    Returns:
        Pixels uint8 (height, width, 3), None if simplejpeg cannot decode them; libjpeg's warning about damage.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(image, "RGB")), None
    except ValueError as error:
        warning = str(error)
        return None, warning if warning.startswith(DAMAGE) else None


def _kept(marker: int, segment: bytes, info: dict[str | tuple[int, int], Any]) -> bytes:
    """Return what stays of a segment in the image; metadata go to `info`."""
    body = segment[4:]
    if marker == APP1 and body.startswith(EXIF):
        info["exif"] = info["exif"] + body[len(EXIF) :] if "exif" in info else body
    elif marker == APP1 and body.startswith(XMP):
        info["xmp"] = body[len(XMP) :]
    if (
        marker == APP0 and body.startswith(JFIF) and len(body) > 6
    ):  # libjpeg warns of versions to come, which mean nothing for pixels
        return segment[:9] + JFIF_VERSION + segment[11:]
    dropped = marker == COMMENT or (APP0 < marker <= APP15 and marker != APP14)  # APP14 tells the colour space
    return b"" if dropped else segment
