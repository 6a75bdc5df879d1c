"""Check of one shard of pixels stored as JPEG: every byte, and that this machine decodes what the teachers saw."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.shard_tail import read_recorded_tail
from store.common.text import some_rows
from store.format import jpeg
from store.format.indexed_layout import IndexedLayout
from store.format.jpeg import EncodedPixels
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import FAILED, OK
from store.format.trailer import ENDING, MAX_TRAILER_BYTES, Trailer
from store.verify.damaged_tail import ShardTail, read_tail
from store.verify.jpeg_scan import scan
from store.verify.problems import Kind
from store.verify.shard_check import ShardCheck, ShardLocation, contradictions, misplacement

MAX_SCANNED_BYTES = 2**32
Place = tuple[int, int]  # where a chunk begins and ends


@dataclass(kw_only=True)
class JpegCheck(ShardCheck):
    """Result of checking one shard of JPEGs.

    Attributes:
        places: where the chunks of rows lie, by position in the shard, as far as it is known.
    """

    places: dict[int, Place] = field(default_factory=dict)


def check_trailer(location: ShardLocation) -> JpegCheck:
    """Check trailer and index of a shard; no row is read unless the index is damaged.

    Raises:
        FileNotFoundError: there is no such object.
    """
    found = _find(location)
    trailer = found.tail.trailer
    check = JpegCheck(location=location, tail=found.tail, belongs=None, good=np.zeros(len(location.rows), np.bool_))
    check.problems = [location.problem(*damage) for damage in found.tail.damage]
    if trailer is not None:
        misplaced = misplacement(location, trailer)
        check.belongs = misplaced is None
        if misplaced is not None:
            check.problems = [misplaced]
            return check
        messages = contradictions(location.dataset, location.array, trailer, paths=location.paths)
        check.problems += [location.problem(Kind.TRAILER_INCONSISTENT, message) for message in messages]
    check.problems += [location.problem(Kind.INDEX_DAMAGED, message) for message in _index_damage(location, found)]
    check.places = _places(location, found)
    return check


def check_shard(location: ShardLocation) -> JpegCheck:
    """Check everything in a shard; no row is read of one that belongs elsewhere.

    Raises:
        FileNotFoundError: there is no such object.
        errors.MissingExtra: nothing is installed that decodes the rows.
    """
    check = check_trailer(location)
    if check.belongs is False:
        return check
    rows: dict[Kind, list[int]] = {}
    reasons: list[str] = []
    for position in _expected_rows(check):
        kind, reason = _check_row(check, position)
        if kind is not None:
            rows.setdefault(kind, []).append(location.rows.start + position)
        reasons += [reason] if reason else []
    meaning = {
        Kind.ROW_CHECKSUM: "checksum differs",
        Kind.ROW_DIFFERS: "not the row that the trailer records",
        Kind.OTHER_DECODER: f"{'; '.join(reasons[:1])}. The stored bytes are what was written",
    }
    for kind, numbers in sorted(rows.items()):
        check.problems.append(location.problem(kind, f"{some_rows(numbers)}: {meaning[kind]}", tuple(numbers)))
    return check


def read_row(check: JpegCheck, position: int) -> EncodedPixels | None:
    """Return a row that was good, checked again; None if it reads differently now."""
    data, stored = _chunk(check, position)
    trailer = check.trailer
    expected = stored if trailer is None else int(trailer.crc32c[position])
    if checksum(data) != expected:
        return None
    if trailer is not None and trailer.pixels_crc32c is not None:
        return EncodedPixels(data=data, crc32c=int(trailer.pixels_crc32c[position]))
    decoded = np.empty(check.location.dataset.array(check.location.array).row_shape, np.uint8)
    try:
        jpeg.decode(data, decoded)
    except errors.InvalidInput:
        return None
    return EncodedPixels(data=data, crc32c=checksum(decoded))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The end of a shard, and its chunks.

    Attributes:
        tail: trailer and index.
        start: where the trailer begins.
        ends: where the chunks end by the index; None if it is damaged.
        scanned: where whole chunks lie, by looking for them; None where the index was enough.
    """

    tail: ShardTail
    start: int
    ends: npt.NDArray[np.uint64] | None
    scanned: list[Place] | None = None


def _find(location: ShardLocation) -> _Found:
    """Find the trailer: behind the chunks of the index, by its recorded length, or behind the chunks that are there."""
    storage, layout, key = location.dataset.storage, _layout(location), location.key
    size = storage.size(key)
    recorded = read_recorded_tail(storage, key, layout)
    ends = layout.ends(recorded[-layout.index_bytes :], rows=len(location.rows))
    tail = read_tail(recorded, index_bytes=layout.index_bytes)
    most = MAX_TRAILER_BYTES + ENDING.size + layout.index_bytes
    if ends is not None and 0 <= size - int(ends[-1]) <= most:
        start = int(ends[-1])
        behind_chunks = read_tail(storage.read(key, start, limit=most), index_bytes=layout.index_bytes)
        if behind_chunks.trailer is not None or tail.trailer is None:
            contradicted = behind_chunks.trailer is not None and not _agree(ends, behind_chunks.trailer)
            places = scan(storage.read(key, limit=MAX_SCANNED_BYTES)) if contradicted else None
            return _Found(tail=behind_chunks, start=start, ends=ends, scanned=places)
    data = storage.read(key, limit=MAX_SCANNED_BYTES)
    places = scan(data)
    if tail.trailer is None:
        start = places[-1][1] if places else 0
        tail = read_tail(data[start : start + MAX_TRAILER_BYTES], index_bytes=layout.index_bytes)
        return _Found(tail=tail, start=start, ends=None, scanned=places)
    return _Found(tail=tail, start=size - len(recorded), ends=None, scanned=places)


def _layout(location: ShardLocation) -> IndexedLayout:
    layout = location.dataset.array(location.array).layout
    assert isinstance(layout, IndexedLayout), "only shards of JPEGs are checked here"
    return layout


def _index_damage(location: ShardLocation, found: _Found) -> list[str]:
    if found.tail.index is None:
        return []  # reported as a wrong size
    ends = _layout(location).ends(found.tail.index, rows=len(location.rows))
    if ends is None:
        return ["checksum of the sharding index differs, or its chunks do not follow one another"]
    if int(ends[-1]) != found.start:
        return [f"chunks end at byte {int(ends[-1])} by the sharding index, the trailer begins at byte {found.start}"]
    if found.tail.trailer is not None and not _agree(ends, found.tail.trailer):
        return ["entries of the sharding index are not those of the rows that are ok"]
    return []


def _agree(ends: npt.NDArray[np.uint64], trailer: Trailer) -> bool:
    """Return whether the rows that an index has are those that are ok by the trailer."""
    return np.array_equal(np.diff(ends, prepend=np.uint64(0)) > 0, trailer.status == OK)


def _places(location: ShardLocation, found: _Found) -> dict[int, Place]:
    """Return where rows lie: by the index, else by comparing what a scan found with the trailer's checksums."""
    if found.scanned is None and found.ends is not None:
        bounds = [0, *found.ends.tolist()]
        return {i: (bounds[i], bounds[i + 1]) for i in range(len(location.rows)) if bounds[i + 1] > bounds[i]}
    trailer = found.tail.trailer
    if trailer is None or len(trailer.crc32c) != len(location.rows):
        return {}
    rows_of = {int(crc): position for position, crc in enumerate(trailer.crc32c) if trailer.status[position] == OK}
    places: dict[int, Place] = {}
    with location.dataset.storage.open_object(location.key) as source:
        for place in found.scanned or ():
            stored = np.zeros(CHECKSUM_BYTES, np.uint8)
            source.read_into([stored], place[1] - CHECKSUM_BYTES, CHECKSUM_BYTES)
            position = rows_of.get(int(stored.view("<u4")[0]))
            places |= {} if position is None else {position: place}
    return places


def _expected_rows(check: JpegCheck) -> list[int]:
    """Return the positions of the rows that should be there: by the trailer, else by the index."""
    trailer = check.trailer
    if trailer is None or len(trailer.status) != len(check.location.rows):
        return sorted(check.places)
    return np.flatnonzero(trailer.status != FAILED).tolist()


def _check_row(check: JpegCheck, position: int) -> tuple[Kind | None, str]:
    """Return what is wrong with one row, and the reason where its bytes are right; note where it is good."""
    trailer = check.trailer
    if position not in check.places:
        return Kind.ROW_CHECKSUM, ""
    data, stored = _chunk(check, position)
    actual = checksum(data)
    recorded = stored if trailer is None else int(trailer.crc32c[position])
    if actual != recorded or stored != recorded:
        check.good[position] = actual == recorded
        return Kind.ROW_DIFFERS if actual == stored else Kind.ROW_CHECKSUM, ""
    check.good[position] = True
    decoded = np.empty(check.location.dataset.array(check.location.array).row_shape, np.uint8)
    try:
        jpeg.decode(data, decoded)
    except errors.InvalidInput as error:
        return Kind.OTHER_DECODER, f"{jpeg.decoder_name()} cannot decode them: {error}"
    if trailer is None or trailer.pixels_crc32c is None:
        return None, ""
    expected, found = int(trailer.pixels_crc32c[position]), checksum(decoded)
    if found == expected:
        return None, ""
    row = check.location.rows.start + position
    values = f"crc32c of row {row} expected {expected:08x}, found {found:08x}"
    return Kind.OTHER_DECODER, f"{jpeg.decoder_name()} decodes other pixels than the teachers saw: {values}"


def _chunk(check: JpegCheck, position: int) -> tuple[bytes, int]:
    """Return the stored bytes of a row and the checksum behind them."""
    start, end = check.places[position]
    data = bytearray(end - start)
    with check.location.dataset.storage.open_object(check.location.key) as source:
        source.read_into([memoryview(data)], start, len(data))
    return bytes(data[:-CHECKSUM_BYTES]), int.from_bytes(data[-CHECKSUM_BYTES:], "little")
