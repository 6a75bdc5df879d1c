"""Reading of the end of a damaged shard: trailer and index found from either side, one wrong byte corrected.

Trailers are small and hold what nothing else does (provenance, reasons, the manifest of unsealed pixels), and their
crc32c can do more than detect: an error within one byte has a syndrome that names the byte and the bits.
"""

from dataclasses import dataclass
from functools import cache

from store import errors
from store.common import strict_json
from store.common.strict_json import Fields
from store.format.layout import checksum
from store.format.trailer import ENDING, Trailer, decode
from store.verify.problems import Kind

POLYNOMIAL = 0x82F63B78  # crc32c, reflected


@dataclass(frozen=True, kw_only=True)
class ShardTail:
    """The part of a shard object behind its slots: trailer and sharding index.

    Attributes:
        trailer: trailer, corrected where that was possible; None where it is lost.
        blob: bytes of the trailer as stored, empty if they were not found.
        recorded_crc32c: checksum of the trailer as stored, None if it was not found.
        index: sharding index as stored, None if it was not found.
        damage: damage of sizes or trailer, as (kind, message).
    """

    trailer: Trailer | None
    blob: bytes
    recorded_crc32c: int | None
    index: bytes | None
    damage: tuple[tuple[Kind, str], ...]


def read_tail(tail: bytes, *, index_bytes: int) -> ShardTail:
    """Read as much as possible of the bytes behind the slots.

    Args:
        tail: all bytes behind the slots.
        index_bytes: size of a sharding index.
    """
    fixed = ENDING.size + index_bytes
    if len(tail) >= fixed:
        blob, ending = tail[:-fixed], tail[-fixed:-index_bytes]
        length, crc = ENDING.unpack(ending)
        decoded = _decode(blob, crc, index_bytes=index_bytes)
        if decoded is not None:
            trailer, exact = decoded
            damage = () if exact else ((Kind.TRAILER_DAMAGED, "its checksum differs in one byte"),)
            if length != len(blob):
                message = f"its length is recorded as {length}, {len(blob)} bytes are there"
                damage = ((Kind.TRAILER_DAMAGED, message),)
            return ShardTail(trailer=trailer, blob=blob, recorded_crc32c=crc, index=tail[-index_bytes:], damage=damage)
    return _read_from_front(tail, index_bytes=index_bytes)


def _read_from_front(tail: bytes, *, index_bytes: int) -> ShardTail:
    """Find the trailer by the lengths that it begins with: its end is not where the object ends."""
    fixed = ENDING.size + index_bytes
    length = _blob_length(tail)
    if length is not None and length + ENDING.size <= len(tail):
        (_, crc), rest = ENDING.unpack_from(tail, length), tail[length + ENDING.size :]
        decoded = _decode(tail[:length], crc, index_bytes=index_bytes)
        if decoded is not None:
            message = f"{len(rest)} bytes behind the trailer, expected an index of {index_bytes}"
            index = rest[:index_bytes] if len(rest) >= index_bytes else None
            return ShardTail(
                trailer=decoded[0],
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


def _decode(blob: bytes, crc: int, *, index_bytes: int) -> tuple[Trailer, bool] | None:
    """Return the trailer and whether it is exactly as written; None if it is lost."""
    actual = checksum(blob)
    if actual == crc:
        trailer = _parse(blob, index_bytes=index_bytes)
        return None if trailer is None else (trailer, True)
    if _within_one_byte(actual ^ crc):  # the damaged byte is one of the checksum itself
        trailer = _parse(blob, index_bytes=index_bytes)
        if trailer is not None:
            return trailer, False
    right = corrected(blob, crc)
    trailer = None if right is None else _parse(right, index_bytes=index_bytes)
    return None if trailer is None else (trailer, False)


def _parse(blob: bytes, *, index_bytes: int) -> Trailer | None:
    whole = blob + ENDING.pack(len(blob), checksum(blob)) + bytes(index_bytes)
    try:
        return decode(whole, where="trailer", index_bytes=index_bytes)
    except errors.Damaged:
        return None


def _blob_length(tail: bytes) -> int | None:
    """Return the length of the safetensors blob that `tail` begins with, by the blob's header; None if it has none."""
    header_bytes = int.from_bytes(tail[:8], "little")
    if len(tail) < 8 or header_bytes > len(tail) - 8:
        return None
    try:
        header = strict_json.parse_object(tail[8 : 8 + header_bytes], where="trailer")
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        ends = [
            Fields(entry if isinstance(entry, dict) else {}, where=name).integers(
                "data_offsets", low=0, high=len(tail), lengths=range(2, 3)
            )[1]
            for name, entry in entries
        ]
    except errors.Damaged:
        return None
    return 8 + header_bytes + max(ends, default=0)


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
