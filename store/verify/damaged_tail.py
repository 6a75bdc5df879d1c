"""Reading the end of a damaged shard: trailer and index found from either side, one wrong byte put right.

Trailers are small and hold what nothing else does (provenance, reasons, the manifest of unsealed pixels), and their
crc32c can do more than detect: an error within one byte has a syndrome that names the byte and the bits.
"""

import json
import struct
from dataclasses import dataclass
from functools import cache

from store import errors
from store.format import trailer
from store.format.layout import checksum
from store.format.trailer import ENDING, Trailer
from store.verify.problems import Kind

POLYNOMIAL = 0x82F63B78  # crc32c, reflected


@dataclass(frozen=True, kw_only=True)
class ShardTail:
    """What lies behind the slots of a shard.

    Attributes:
        trailer: what the shard says of itself, put right where that was possible; None where it is lost.
        blob: the bytes of the trailer as found, empty if they were not found.
        recorded_crc32c: the trailer's checksum as stored, None if it was not found.
        index: the sharding index as found, None if it was not.
        damage: what is wrong with sizes or trailer, as (kind, message); empty if nothing is.
    """

    trailer: Trailer | None
    blob: bytes
    recorded_crc32c: int | None
    index: bytes | None
    damage: tuple[tuple[Kind, str], ...]


def read_tail(tail: bytes, *, index_bytes: int) -> ShardTail:
    """Make the most of the bytes behind the slots.

    Args:
        tail: all of them.
        index_bytes: bytes of a sharding index.
    """
    fixed = ENDING.size + index_bytes
    if len(tail) >= fixed:
        blob, ending = tail[:-fixed], tail[-fixed:-index_bytes]
        length, crc = ENDING.unpack(ending)
        found = _understood(blob, crc, index_bytes=index_bytes)
        if length == len(blob) and found is not None:
            said, exact = found
            damage = () if exact else ((Kind.TRAILER_DAMAGED, "its checksum differs in one byte"),)
            return ShardTail(trailer=said, blob=blob, recorded_crc32c=crc, index=tail[-index_bytes:], damage=damage)
        if found is not None:
            damage = ((Kind.TRAILER_DAMAGED, f"its length is recorded as {length}, {len(blob)} bytes are there"),)
            return ShardTail(trailer=found[0], blob=blob, recorded_crc32c=crc, index=tail[-index_bytes:], damage=damage)
    return _read_from_front(tail, index_bytes=index_bytes)


def _read_from_front(tail: bytes, *, index_bytes: int) -> ShardTail:
    """Find the trailer by the lengths that it begins with: its end is not where the object ends."""
    fixed = ENDING.size + index_bytes
    length = _blob_length(tail)
    if length is not None and length + ENDING.size <= len(tail):
        (_, crc), rest = ENDING.unpack_from(tail, length), tail[length + ENDING.size :]
        found = _understood(tail[:length], crc, index_bytes=index_bytes)
        if found is not None:
            message = f"{len(rest)} bytes behind the trailer, expected an index of {index_bytes}"
            index = rest[:index_bytes] if len(rest) >= index_bytes else None
            return ShardTail(
                trailer=found[0],
                blob=tail[:length],
                recorded_crc32c=crc,
                index=index,
                damage=((Kind.OBJECT_SIZE, message),),
            )
    if len(tail) < fixed:
        message = f"cut short: {len(tail)} bytes behind the slots, expected a trailer and {fixed} more"
        return ShardTail(
            trailer=None, blob=tail, recorded_crc32c=None, index=None, damage=((Kind.OBJECT_SIZE, message),)
        )
    blob, (stated, crc) = tail[:-fixed], ENDING.unpack_from(tail, len(tail) - fixed)
    if stated != len(blob):
        kind, message = Kind.OBJECT_SIZE, f"{len(blob)} bytes of trailer, recorded as {stated}"
    else:
        kind, message = Kind.TRAILER_DAMAGED, "its checksum differs"
    index = tail[-index_bytes:]
    return ShardTail(trailer=None, blob=blob, recorded_crc32c=crc, index=index, damage=((kind, message),))


def _understood(blob: bytes, crc: int, *, index_bytes: int) -> tuple[Trailer, bool] | None:
    """Return the trailer and whether it is exactly as written; None if it cannot be made out."""
    actual = checksum(blob)
    if actual == crc:
        said = _parsed(blob, index_bytes=index_bytes)
        return None if said is None else (said, True)
    if _within_one_byte(actual ^ crc):  # the checksum itself is what was hit
        said = _parsed(blob, index_bytes=index_bytes)
        if said is not None:
            return said, False
    right = corrected(blob, crc)
    said = None if right is None else _parsed(right, index_bytes=index_bytes)
    return None if said is None else (said, False)


def _parsed(blob: bytes, *, index_bytes: int) -> Trailer | None:
    whole = blob + ENDING.pack(len(blob), checksum(blob)) + bytes(index_bytes)
    try:
        return trailer.decode(whole, where="trailer", index_bytes=index_bytes)
    except (errors.Damaged, AttributeError):
        return None


def _blob_length(tail: bytes) -> int | None:
    """Return the length of the safetensors blob that `tail` begins with, by its own header."""
    try:
        (header_bytes,) = struct.unpack_from("<Q", tail)
        if header_bytes > len(tail) - 8:
            return None
        header = json.loads(tail[8 : 8 + header_bytes])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return int(8 + header_bytes + max(ends, default=0))


def corrected(blob: bytes, crc: int) -> bytes | None:
    """Return `blob` with one byte changed so that its crc32c is `crc`; None if no single byte explains the difference.

    Appending a zero byte to an error advances its syndrome by one step of the checksum's shift register. Here the
    register runs backwards from the end of the blob until what is left is the syndrome of a single byte.
    """
    table, inverse = _tables()
    syndrome = checksum(blob) ^ crc
    for position in range(len(blob) - 1, -1, -1):
        low = inverse[syndrome >> 24]
        if table[low] == syndrome:
            right = bytearray(blob)
            right[position] ^= low
            return bytes(right) if checksum(right) == crc else None
        syndrome = (((syndrome ^ table[low]) << 8) & 0xFFFFFFFF) | low
    return None


@cache
def _tables() -> tuple[list[int], list[int]]:
    """Return the crc32c of every byte (without conditioning), and the byte by its highest eight bits."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    inverse = [0] * 256
    for byte, value in enumerate(table):
        inverse[value >> 24] = byte
    return table, inverse


def _within_one_byte(difference: int) -> bool:
    return sum(bool(difference >> shift & 0xFF) for shift in (0, 8, 16, 24)) == 1
