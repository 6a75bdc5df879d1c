"""Stored bytes of a row of pixels, before there is any."""

from store.format.layout import CHECKSUM_BYTES

RGB_BYTES = 3
# Random crops of photographs at 336 px, quality 95, 4:4:4: 65 to 73 kB. Smaller views have more detail a pixel.
JPEG_BYTES_PER_PX = 0.65
INDEX_BYTES = 16  # of a row in a shard's index; only rows that vary in length need it to be counted


def pixels_row_bytes(image_size: int, form: str, *, jpeg_bytes_per_px: float = JPEG_BYTES_PER_PX) -> int:
    """Return the stored bytes of a row of pixels, checksum included; of JPEG an estimate.

    Args:
        image_size: side of the view, px.
        form: `raw` or `jpeg`.
        jpeg_bytes_per_px: bytes of a JPEG over its pixels.
    """
    if form == "raw":
        return image_size**2 * RGB_BYTES + CHECKSUM_BYTES
    return round(image_size**2 * jpeg_bytes_per_px) + CHECKSUM_BYTES + INDEX_BYTES
