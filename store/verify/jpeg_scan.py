"""Search for the chunks of a shard of JPEGs whose index is lost: a JPEG file says itself where it ends."""

from store.format.jpeg import START_OF_IMAGE, end_of
from store.format.layout import CHECKSUM_BYTES, checksum


def scan(data: bytes) -> list[tuple[int, int]]:
    """Return where whole chunks begin and end, ascending: a JPEG file, then its crc32c.

    Args:
        data: a shard object, or what is left of it.
    """
    places, position = [], 0
    while (start := data.find(START_OF_IMAGE, position)) >= 0:
        end = end_of(data, start)
        stop = None if end is None else end + CHECKSUM_BYTES
        if end is not None and stop is not None and _is_chunk(data, start, end, stop):
            places.append((start, stop))
            position = stop
        else:
            position = start + 1
    return places


def _is_chunk(data: bytes, start: int, end: int, stop: int) -> bool:
    whole = stop <= len(data)
    return whole and checksum(data[start:end]) == int.from_bytes(data[end:stop], "little")
