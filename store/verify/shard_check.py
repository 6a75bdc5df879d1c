"""Check of one shard object: sizes, trailer, index, row checksums, holes, moments, and that it belongs where it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache.dataset import Dataset
from store.common.text import some_rows
from store.format import manifest
from store.format.indexed_layout import IndexedLayout
from store.format.layout import CHECKSUM_BYTES, ShardLayout, checksum
from store.format.moments import TokenMoments
from store.format.schema import CODES, FAILED, OK, PIXELS
from store.format.statistics import agree
from store.format.trailer import ENDING, MAX_TRAILER_BYTES, Trailer, mismatches
from store.verify.code_check import distortion_contradictions
from store.verify.damaged_tail import ShardTail, read_tail
from store.verify.problems import Kind, Problem

BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class ShardLocation:
    """The place of a shard in its dataset, and the object to check for it.

    Attributes:
        dataset: dataset of the shard.
        array: `pixels` or a teacher's name.
        shard: number of the shard.
        key: object to check: the shard's own, or a misplaced or quarantined one.
        paths: the dataset's image paths, to compare manifest rows with; None where the image list is damaged.
    """

    dataset: Dataset
    array: str
    shard: int
    key: str
    paths: pa.Array | None = None

    @classmethod
    def of(cls, dataset: Dataset, array: str, shard: int, *, paths: pa.Array | None) -> "ShardLocation":
        """Return the location of a shard, with its own object as the one to check."""
        key = dataset.array(array).shard_key(shard)
        return cls(dataset=dataset, array=array, shard=shard, key=key, paths=paths)

    @property
    def layout(self) -> ShardLayout:
        layout = self.dataset.array(self.array).layout
        assert isinstance(layout, ShardLayout), "only arrays with slots are checked here"
        return layout

    @property
    def rows(self) -> range:
        return self.dataset.shard_rows_of(self.shard)

    def problem(self, kind: Kind, message: str, rows: tuple[int, ...] = ()) -> Problem:
        """Return a problem of this shard."""
        return Problem(
            kind=kind,
            key=self.key,
            message=message,
            dataset=self.dataset.name,
            array=self.array,
            shard=self.shard,
            rows=rows,
        )


@dataclass(kw_only=True)
class ShardCheck:
    """Result of checking one shard object.

    Attributes:
        location: location of the shard.
        problems: problems found; none if the shard is whole.
        tail: trailer and index as stored.
        belongs: whether the object belongs to this location, by its trailer; None if that is lost.
        good: bool [rows], ok rows whose bytes are known to be what was written; all False where rows were not read.
    """

    location: ShardLocation
    tail: ShardTail
    belongs: bool | None
    problems: list[Problem] = field(default_factory=list)
    good: npt.NDArray[np.bool_]

    @property
    def trailer(self) -> Trailer | None:
        """The trailer, if it is readable and belongs to this location."""
        return self.tail.trailer if self.belongs else None


def check_trailer(location: ShardLocation) -> ShardCheck:
    """Check trailer and index of a shard; no row is read.

    Raises:
        FileNotFoundError: there is no such object.
    """
    layout, storage = location.layout, location.dataset.storage
    limit = MAX_TRAILER_BYTES + layout.index_bytes
    too_large = None
    try:
        stored = storage.read(location.key, layout.slots_bytes(location.shard), limit=limit)
    except errors.Damaged as error:
        stored, too_large = b"", location.problem(Kind.OBJECT_SIZE, str(error))
    tail = read_tail(stored, index_bytes=layout.index_bytes)
    check = ShardCheck(location=location, tail=tail, belongs=None, good=np.zeros(len(location.rows), np.bool_))
    misplaced = _misplaced_shard(location) if tail.trailer is None else None
    if misplaced is not None:
        check.problems, check.belongs = [misplaced], False
        return check
    check.problems += [too_large] if too_large else [location.problem(*damage) for damage in tail.damage]
    if tail.trailer is not None:
        misplaced = misplacement(location, tail.trailer)
        check.belongs = misplaced is None
        if misplaced is not None:
            check.problems.append(misplaced)
        else:
            messages = contradictions(location.dataset, location.array, tail.trailer, paths=location.paths)
            check.problems += [location.problem(Kind.TRAILER_INCONSISTENT, message) for message in messages]
    check.problems += [location.problem(Kind.INDEX_DAMAGED, message) for message in _index_damage(location, tail)]
    return check


def check_shard(location: ShardLocation) -> ShardCheck:
    """Check everything in a shard; no row is read of one that belongs elsewhere.

    Raises:
        FileNotFoundError: there is no such object.
    """
    check = check_trailer(location)
    if check.belongs is False or location.dataset.storage.size(location.key) < location.layout.stride:
        return check  # no row to read, however large rows are claimed to be
    rows = _RowsCheck(check)
    for first, block in _blocks(location):
        rows.check_block(first, block)
    check.problems += rows.problems()
    check.good = rows.good
    return check


def index_states(location: ShardLocation, index: bytes | None) -> npt.NDArray[np.uint8] | None:
    """Return the row states that a sharding index implies; None if it is damaged."""
    layout = location.layout
    if index is None or checksum(index[:-CHECKSUM_BYTES]) != int.from_bytes(index[-CHECKSUM_BYTES:], "little"):
        return None
    present = np.frombuffer(index[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)[: len(location.rows), 1] == layout.stride
    return np.where(present, OK, FAILED).astype(np.uint8) if layout.index(present) == index else None


def contradictions(dataset: Dataset, array: str, trailer: Trailer, *, paths: pa.Array | None) -> list[str]:
    """Return in what a trailer contradicts itself or its dataset.

    Args:
        dataset: dataset of the shard.
        array: `pixels` or a teacher's name.
        trailer: trailer whose checksum holds and that belongs to this array.
        paths: the dataset's image paths; None if they are not known.
    """
    messages = list(_states(trailer))
    if array == PIXELS:
        if trailer.pixels_digest is not None or trailer.moments is not None:
            messages.append("pixels with moments or a digest")
        if (trailer.pixels_crc32c is None) == isinstance(dataset.array(array).layout, IndexedLayout):
            messages.append("pixels must carry checksums of what they decode to if they are JPEG, and only then")
        messages += _manifest(dataset, trailer, paths=paths)
    else:
        messages += _token_parts(dataset, array, trailer)
    return messages


def _misplaced_shard(location: ShardLocation) -> Problem | None:
    """Return a problem if the object is a whole shard of another array, whose rows have another size."""
    fixed = ENDING.size + location.layout.index_bytes
    ending = location.dataset.storage.read_last(location.key, fixed)
    if len(ending) < fixed:
        return None
    length, _ = ENDING.unpack_from(ending)
    if length > MAX_TRAILER_BYTES:
        return None
    tail = location.dataset.storage.read_last(location.key, length + fixed)
    trailer = read_tail(tail, index_bytes=location.layout.index_bytes).trailer
    return None if trailer is None else misplacement(location, trailer)


def misplacement(location: ShardLocation, trailer: Trailer) -> Problem | None:
    """Return a problem if a whole trailer does not belong to this location."""
    digest = location.dataset.identity_digest(location.array)
    elsewhere = mismatches(
        trailer,
        dataset=location.dataset.name,
        array=location.array,
        shard=location.shard,
        rows=location.rows,
        identity_digest=trailer.identity_digest,
    )
    if elsewhere:
        return location.problem(Kind.MISPLACED, f"belongs elsewhere: {'; '.join(elsewhere)}")
    if trailer.identity_digest != digest:
        message = f"from another extraction: identity digest expected {digest}, found {trailer.identity_digest}"
        return location.problem(Kind.OTHER_IDENTITY, message)
    return None


def _index_damage(location: ShardLocation, tail: ShardTail) -> list[str]:
    if tail.index is None:
        return []  # reported as a wrong size
    crc = int.from_bytes(tail.index[-CHECKSUM_BYTES:], "little")
    if checksum(tail.index[:-CHECKSUM_BYTES]) != crc:
        return ["checksum of the sharding index differs"]
    trailer = tail.trailer
    if (
        trailer is not None
        and len(trailer.status) == len(location.rows)
        and tail.index != location.layout.index(trailer.status == OK)
    ):
        return ["entries of the sharding index are not those of the rows that are ok"]
    return []


def _blocks(location: ShardLocation) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield (first slot, uint8 [slots, stride]); bytes missing at the end of a short object are zeros."""
    layout, count = location.layout, len(location.rows)
    per_block = max(1, BLOCK_BYTES // layout.stride)
    with location.dataset.storage.open_object(location.key) as source:
        for first in range(0, count, per_block):
            block = np.zeros((min(per_block, count - first), layout.stride), np.uint8)
            source.read_into([block], first * layout.stride, block.nbytes)
            yield first, block


class _RowsCheck:
    """Check of the slots of a shard, one block after another.

    Attributes:
        good: bool [rows], ok rows whose bytes are known to be what was written.
    """

    def __init__(self, check: ShardCheck) -> None:
        self._check = check
        self._location = check.location
        self._node = check.location.dataset.array(check.location.array)
        count = len(check.location.rows)
        trailer = check.trailer
        self._status = trailer.status if trailer is not None else index_states(check.location, check.tail.index)
        self._recorded = trailer.crc32c if trailer is not None else None
        self.good = np.zeros(count, np.bool_)
        self._bad_rows: dict[Kind, list[int]] = {}
        self._moments = None
        if check.location.array != PIXELS and self._node.form != CODES:  # of codes, they are those of the true tokens
            prefix_tokens = check.location.dataset.teacher(check.location.array).prefix_tokens
            tokens, channels = self._node.row_shape
            self._moments = TokenMoments(prefix_tokens=prefix_tokens, tokens=tokens, channels=channels, rows=count)

    def check_block(self, first: int, block: npt.NDArray[np.uint8]) -> None:
        stored = block[:, -CHECKSUM_BYTES:].copy().view("<u4")[:, 0]
        for offset, slot in enumerate(block):
            position = first + offset
            data = np.ascontiguousarray(slot[:-CHECKSUM_BYTES])
            state = self._state(position, slot)
            if state != OK:
                if slot.any():
                    self._note(Kind.HOLE_NOT_ZERO, position)
                continue
            self._check_row(position, data, checksum(data), int(stored[offset]))

    def _check_row(self, position: int, data: npt.NDArray[np.uint8], actual: int, stored: int) -> None:
        recorded = stored if self._recorded is None else int(self._recorded[position])
        if actual != recorded or stored != recorded:
            self._note(Kind.ROW_DIFFERS if actual == stored else Kind.ROW_CHECKSUM, position)
        if actual != recorded:
            return
        values = data.view(self._node.dtype.newbyteorder("<")).reshape(self._node.row_shape)
        if self._moments is not None and not self._moments.add(values):
            self._note(Kind.ROW_NOT_FINITE, position)
            return
        self.good[position] = True

    def problems(self) -> list[Problem]:
        meaning = {
            Kind.ROW_CHECKSUM: "checksum differs",
            Kind.ROW_DIFFERS: "not the row that the trailer records",
            Kind.ROW_NOT_FINITE: "NaN or infinity stored as ok",
            Kind.HOLE_NOT_ZERO: "failed, but its slot is not empty",
        }
        problems = []
        for kind, rows in sorted(self._bad_rows.items()):
            problems.append(self._location.problem(kind, f"{some_rows(rows)}: {meaning[kind]}", tuple(rows)))
        trailer = self._check.trailer
        complete = trailer is not None and bool(self.good[trailer.status == OK].all())
        if complete and trailer is not None and trailer.moments is not None and self._moments is not None:
            differing = [
                name
                for name, recorded, actual in zip(
                    ("prefix", "patch"), trailer.moments, self._moments.result(), strict=True
                )
                if not agree(recorded, actual)
            ]
            if differing:
                message = f"moments of {' and '.join(differing)} tokens are not those of the data"
                problems.append(self._location.problem(Kind.MOMENTS_DIFFER, message))
        return problems

    def _state(self, position: int, slot: npt.NDArray[np.uint8]) -> int:
        if self._status is not None:
            return int(self._status[position])
        return OK if slot.any() else FAILED

    def _note(self, kind: Kind, position: int) -> None:
        self._bad_rows.setdefault(kind, []).append(self._location.rows.start + position)


def _states(trailer: Trailer) -> Iterator[str]:
    invalid = np.flatnonzero((trailer.status != OK) & (trailer.status != FAILED)) + trailer.rows.start
    if len(invalid):
        yield f"{some_rows(invalid.tolist())}: state is neither ok ({OK}) nor failed ({FAILED})"
    failed = set((np.flatnonzero(trailer.status == FAILED) + trailer.rows.start).tolist())
    if failed != set(trailer.errors):
        yield f"{some_rows(sorted(failed ^ set(trailer.errors)))}: failed without a reason, or a reason without failure"


def _token_parts(dataset: Dataset, array: str, trailer: Trailer) -> Iterator[str]:
    if trailer.pixels_digest is None or trailer.moments is None or trailer.manifest_bytes is not None:
        yield "tokens must name the digest of their pixels and carry moments, and no manifest"
        return
    teacher = dataset.teacher(array)
    ok = int((trailer.status == OK).sum())
    prefix, patch = trailer.moments
    for name, moments, tokens in (("prefix", prefix, teacher.prefix_tokens), ("patch", patch, teacher.patches)):
        count = 0.0 if moments is None else float(moments.count.max(initial=0.0))
        if moments is not None and moments.mean.shape != (teacher.channels,):
            yield f"{name} moments of {len(moments.mean)} channels, expected {teacher.channels}"
        elif count != ok * tokens:
            yield f"{name} moments of {count:.0f} tokens, expected {ok} rows of {tokens}"
        else:
            continue
        return
    yield from distortion_contradictions(dataset, array, trailer)


def _manifest(dataset: Dataset, trailer: Trailer, *, paths: pa.Array | None) -> list[str]:
    try:
        if trailer.manifest_bytes is None:
            return ["pixels without manifest rows"]
        table = manifest.parse_rows(trailer.manifest_bytes, rows=trailer.rows, where="they")
        table = manifest.check_rows(table, rows=trailer.rows, dataset=dataset.name, status=trailer.status)
    except (errors.InvalidInput, errors.Damaged) as error:
        return [f"manifest rows: {error}"]
    rows = np.arange(trailer.rows.start, trailer.rows.stop)
    images = rows // dataset.views
    expected = {
        "image_index": pa.array(images),
        "view": pa.array(dataset.first_view + rows % dataset.views, pa.int32()),
        "error": pa.array([trailer.errors.get(row) for row in rows.tolist()], pa.string()),
    }
    if paths is not None:
        expected["path"] = paths.take(pa.array(images))
    messages = []
    for name, wanted in expected.items():
        column = table[name].combine_chunks()
        if not column.equals(wanted):
            differing = [
                row for row, a, b in zip(rows.tolist(), column.to_pylist(), wanted.to_pylist(), strict=True) if a != b
            ]
            messages.append(f"manifest, {some_rows(differing)}: column '{name}' is not that of the dataset")
    return messages
