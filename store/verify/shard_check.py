"""Checking one shard object: sizes, trailer, index, every row's checksum, holes, moments, and that it belongs here."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache.dataset import Dataset
from store.common.text import some_rows
from store.format import manifest, trailer
from store.format.layout import CHECKSUM_BYTES, ShardLayout, checksum
from store.format.moments import TokenMoments
from store.format.schema import FAILED, OK, PIXELS
from store.format.statistics import Moments
from store.format.trailer import ENDING, Trailer
from store.verify.damaged_tail import ShardTail, read_tail
from store.verify.problems import Kind, Problem

BLOCK_BYTES = 8 * 2**20
MAX_TRAILER_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class ShardLocation:
    """Where a shard belongs.

    Attributes:
        dataset, array, shard: which.
        key: the object looked at: the shard's own, or one put aside.
        paths: the dataset's image paths, to compare manifest rows with; None where the image list is damaged.
    """

    dataset: Dataset
    array: str
    shard: int
    key: str
    paths: pa.Array | None = None

    @classmethod
    def of(cls, dataset: Dataset, array: str, shard: int, *, paths: pa.Array | None) -> "ShardLocation":
        """Return the place of a shard with its own object."""
        key = dataset.array(array).shard_key(shard)
        return cls(dataset=dataset, array=array, shard=shard, key=key, paths=paths)

    @property
    def layout(self) -> ShardLayout:
        layout = self.dataset.array(self.array).layout
        assert layout is not None, "only arrays with our layout have shards to check"
        return layout

    @property
    def rows(self) -> range:
        return self.layout.rows_of(self.shard)

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
    """What was found.

    Attributes:
        place: of the shard.
        problems: none if it is whole.
        tail: trailer and index as found.
        belongs: whether the shard's own words say that it belongs here; None if they cannot be made out.
        good: bool [rows], ok rows whose bytes are known to be what was written; all False where rows were not read.
    """

    place: ShardLocation
    tail: ShardTail
    belongs: bool | None
    problems: list[Problem] = field(default_factory=list)
    good: npt.NDArray[np.bool_]

    @property
    def trailer(self) -> Trailer | None:
        """The trailer of a shard that belongs here."""
        return self.tail.trailer if self.belongs else None


def check_trailer(place: ShardLocation) -> ShardCheck:
    """Check what lies behind the slots; no row is read.

    Raises:
        FileNotFoundError: the object has gone.
    """
    layout = place.layout
    tail = read_tail(
        place.dataset.storage.read(place.key, layout.slots_bytes(place.shard)), index_bytes=layout.index_bytes
    )
    check = ShardCheck(place=place, tail=tail, belongs=None, good=np.zeros(len(place.rows), np.bool_))
    stranger = _misplaced_shard(place) if tail.trailer is None else None
    if stranger is not None:
        check.problems, check.belongs = [stranger], False
        return check
    check.problems += [place.problem(kind, message) for kind, message in tail.damage]
    if tail.trailer is not None:
        strangers = _misplacements(place, tail.trailer)
        check.problems += strangers
        check.belongs = not strangers
        if check.belongs:
            found = contradictions(place.dataset, place.array, tail.trailer, paths=place.paths)
            check.problems += [place.problem(Kind.TRAILER_INCONSISTENT, message) for message in found]
    check.problems += [place.problem(Kind.INDEX_DAMAGED, message) for message in _index_damage(place, tail)]
    return check


def check_shard(place: ShardLocation) -> ShardCheck:
    """Check everything about a shard; of one that belongs elsewhere no row is read.

    Raises:
        FileNotFoundError: the object has gone.
    """
    check = check_trailer(place)
    if check.belongs is False:
        return check
    rows = _Rows(check)
    for first, block in _blocks(place):
        rows.take(first, block)
    check.problems += rows.problems()
    check.good = rows.good
    return check


def index_states(place: ShardLocation, index: bytes | None) -> npt.NDArray[np.uint8] | None:
    """Return the row states that a sharding index implies; None if it is damaged."""
    layout = place.layout
    if index is None or checksum(index[:-CHECKSUM_BYTES]) != int.from_bytes(index[-CHECKSUM_BYTES:], "little"):
        return None
    present = np.frombuffer(index[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)[: len(place.rows), 1] == layout.stride
    return np.where(present, OK, FAILED).astype(np.uint8) if layout.index(present) == index else None


def _misplaced_shard(place: ShardLocation) -> Problem | None:
    """Return the problem of a whole shard of another place whose rows have other sizes."""
    fixed = ENDING.size + place.layout.index_bytes
    ending = place.dataset.storage.read_last(place.key, fixed)
    if len(ending) < fixed:
        return None
    length, _ = ENDING.unpack_from(ending)
    if length > MAX_TRAILER_BYTES:
        return None
    tail = place.dataset.storage.read_last(place.key, length + fixed)
    said = read_tail(tail, index_bytes=place.layout.index_bytes).trailer
    strangers = [] if said is None else _misplacements(place, said)
    return strangers[0] if strangers else None


def _misplacements(place: ShardLocation, said: Trailer) -> list[Problem]:
    """Return why a whole trailer does not belong here."""
    digest = place.dataset.identity_digest(place.array)
    elsewhere = trailer.mismatches(
        said,
        dataset=place.dataset.name,
        array=place.array,
        shard=place.shard,
        rows=place.rows,
        identity_digest=said.identity_digest,
    )
    if elsewhere:
        return [place.problem(Kind.MISPLACED, f"belongs elsewhere: {'; '.join(elsewhere)}")]
    if said.identity_digest != digest:
        message = f"from another extraction: identity digest expected {digest}, found {said.identity_digest}"
        return [place.problem(Kind.OTHER_IDENTITY, message)]
    return []


def _index_damage(place: ShardLocation, tail: ShardTail) -> list[str]:
    if tail.index is None:
        return []  # the object's size says it
    crc = int.from_bytes(tail.index[-CHECKSUM_BYTES:], "little")
    if checksum(tail.index[:-CHECKSUM_BYTES]) != crc:
        return ["checksum of the sharding index differs"]
    said = tail.trailer
    if said is not None and len(said.status) == len(place.rows) and tail.index != place.layout.index(said.status == OK):
        return ["entries of the sharding index are not those of the rows that are ok"]
    return []


def _blocks(place: ShardLocation) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield (first slot, uint8 [slots, stride]); bytes behind the end of a short object read as zeros."""
    layout, count = place.layout, len(place.rows)
    per_block = max(1, BLOCK_BYTES // layout.stride)
    with place.dataset.storage.open_object(place.key) as source:
        for first in range(0, count, per_block):
            block = np.zeros((min(per_block, count - first), layout.stride), np.uint8)
            source.read_into([block], first * layout.stride, block.nbytes)
            yield first, block


class _Rows:
    """Takes the slots of a shard one block after another."""

    def __init__(self, check: ShardCheck) -> None:
        self._check = check
        self._place = check.place
        self._node = check.place.dataset.array(check.place.array)
        count = len(check.place.rows)
        said = check.trailer
        self._status = said.status if said is not None else index_states(check.place, check.tail.index)
        self._recorded = said.crc32c if said is not None else None
        self.good = np.zeros(count, np.bool_)
        self._found: dict[Kind, list[int]] = {}
        self._moments = None
        if check.place.array != PIXELS:
            prefix_tokens = check.place.dataset.teacher(check.place.array).prefix_tokens
            tokens, channels = self._node.row_shape
            self._moments = TokenMoments(prefix_tokens=prefix_tokens, tokens=tokens, channels=channels, rows=count)

    def take(self, first: int, block: npt.NDArray[np.uint8]) -> None:
        stored = block[:, -CHECKSUM_BYTES:].copy().view("<u4")[:, 0]
        for offset, slot in enumerate(block):
            position = first + offset
            data = np.ascontiguousarray(slot[:-CHECKSUM_BYTES])
            state = self._state(position, slot)
            if state != OK:
                if slot.any():
                    self._note(Kind.HOLE_NOT_ZERO, position)
                continue
            self._take_row(position, data, checksum(data), int(stored[offset]))

    def _take_row(self, position: int, data: npt.NDArray[np.uint8], actual: int, stored: int) -> None:
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
            Kind.ROW_DIFFERS: "not the row that the trailer speaks of",
            Kind.ROW_NOT_FINITE: "NaN or infinity stored as ok",
            Kind.HOLE_NOT_ZERO: "failed, but its place is not empty",
        }
        problems = []
        for kind, rows in sorted(self._found.items()):
            problems.append(self._place.problem(kind, f"{some_rows(rows)}: {meaning[kind]}", tuple(rows)))
        said = self._check.trailer
        complete = said is not None and bool(self.good[said.status == OK].all())
        if complete and said is not None and said.moments is not None and self._moments is not None:
            differing = [
                name
                for name, recorded, actual in zip(
                    ("prefix", "patch"), said.moments, self._moments.result(), strict=True
                )
                if not _same_moments(recorded, actual)
            ]
            if differing:
                message = f"moments of {' and '.join(differing)} tokens are not those of the data"
                problems.append(self._place.problem(Kind.MOMENTS_DIFFER, message))
        return problems

    def _state(self, position: int, slot: npt.NDArray[np.uint8]) -> int:
        if self._status is not None:
            return int(self._status[position])
        return OK if slot.any() else FAILED

    def _note(self, kind: Kind, position: int) -> None:
        self._found.setdefault(kind, []).append(self._place.rows.start + position)


def _same_moments(recorded: Moments | None, actual: Moments | None) -> bool:
    return recorded is actual if recorded is None or actual is None else recorded.agrees(actual)


def contradictions(dataset: Dataset, array: str, said: Trailer, *, paths: pa.Array | None) -> list[str]:
    """Return what a trailer, known to be whole and to belong here, gets wrong.

    Args:
        dataset: whose shard.
        array: `pixels` or a teacher.
        said: the trailer.
        paths: of the dataset's images; None if they are not known.
    """
    found = list(_states(said))
    if array == PIXELS:
        found += [] if said.pixels_digest is None and said.moments is None else ["pixels with moments or a digest"]
        found += _manifest(dataset, said, paths=paths)
    else:
        found += _token_parts(dataset, array, said)
    return found


def _states(said: Trailer) -> Iterator[str]:
    strange = np.flatnonzero((said.status != OK) & (said.status != FAILED)) + said.rows.start
    if len(strange):
        yield f"{some_rows(strange.tolist())}: state is neither ok ({OK}) nor failed ({FAILED})"
    failed = set((np.flatnonzero(said.status == FAILED) + said.rows.start).tolist())
    if failed != set(said.errors):
        yield f"{some_rows(sorted(failed ^ set(said.errors)))}: failed without a reason, or a reason without failure"


def _token_parts(dataset: Dataset, array: str, said: Trailer) -> Iterator[str]:
    if said.pixels_digest is None or said.moments is None or said.manifest_bytes is not None:
        yield "tokens must name the digest of their pixels and carry moments, and no manifest"
        return
    teacher = dataset.teacher(array)
    ok = int((said.status == OK).sum())
    patches = teacher.patch_grid[0] * teacher.patch_grid[1]
    prefix, patch = said.moments
    for name, moments, tokens in (("prefix", prefix, teacher.prefix_tokens), ("patch", patch, patches)):
        count = 0.0 if moments is None else float(moments.count.max(initial=0.0))
        if moments is not None and moments.mean.shape != (teacher.channels,):
            yield f"{name} moments of {len(moments.mean)} channels, expected {teacher.channels}"
        elif count != ok * tokens:
            yield f"{name} moments of {count:.0f} tokens, expected {ok} rows of {tokens}"


def _manifest(dataset: Dataset, said: Trailer, *, paths: pa.Array | None) -> list[str]:
    try:
        if said.manifest_bytes is None:
            return ["pixels without manifest rows"]
        table = manifest.parse_parquet(said.manifest_bytes)
        table = manifest.check_rows(table, rows=said.rows, dataset=dataset.name, status=said.status)
    except (errors.InvalidInput, OSError, pa.ArrowInvalid) as error:
        return [f"manifest rows: {error}"]
    rows = np.arange(said.rows.start, said.rows.stop)
    images = rows // dataset.views
    expected = {
        "image_index": pa.array(images),
        "view": pa.array(dataset.first_view + rows % dataset.views, pa.int32()),
        "error": pa.array([said.errors.get(row) for row in rows.tolist()], pa.string()),
    }
    if paths is not None:
        expected["path"] = paths.take(pa.array(images))
    found = []
    for name, wanted in expected.items():
        column = table[name].combine_chunks()
        if not column.equals(wanted):
            differing = [
                row for row, a, b in zip(rows.tolist(), column.to_pylist(), wanted.to_pylist(), strict=True) if a != b
            ]
            found.append(f"manifest, {some_rows(differing)}: column '{name}' is not that of the dataset")
    return found
