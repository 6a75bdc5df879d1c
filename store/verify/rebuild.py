"""Deciding what every row of a damaged shard will be: kept, failed as before, or made anew. Nothing is written here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import errors
from store.cache import sealed_tables
from store.cache.dataset import Dataset
from store.common.text import some_rows
from store.format import manifest
from store.format.layout import checksum
from store.format.schema import FAILED, OK, PIXELS
from store.format.trailer import Trailer, digest_of
from store.verify.recompute import Recomputer
from store.verify.shard_check import ShardCheck, ShardLocation, contradictions, index_states

CLOSE = (
    1e-2  # relative distance of tokens of the same pixels on different machines; other pixels are 0.1 and more apart
)
LOST_REASON = "unknown: the reason was lost with a damaged trailer"


class CannotRebuild(Exception):
    """A shard cannot be rebuilt.

    Attributes:
        reason: why, and what to do.
        rows: that cannot be had.
    """

    def __init__(self, reason: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason, self.rows = reason, rows


@dataclass(kw_only=True)
class Plan:
    """What a shard will be.

    Attributes:
        place: of the shard.
        source: the object that kept rows come from; None if none are kept.
        status: uint8 [rows].
        reasons: by failed row.
        fresh: rows made anew by their position in the shard; the other ok rows are kept.
        provenance: of the trailer.
        pixels_digest: of the trailer, for tokens.
        manifest: rows of the trailer, for pixels.
    """

    place: ShardLocation
    source: ShardCheck | None
    status: npt.NDArray[np.uint8]
    reasons: dict[int, str]
    fresh: dict[int, npt.NDArray[Any]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    pixels_digest: str | None = None
    manifest: pa.Table | None = None


Ask = Callable[[], Recomputer]
ReadRow = Callable[[ShardCheck, int], npt.NDArray[Any]]


class Planner:
    """Plans shards of one cache.

    Args:
        ask: returns the recomputer, or raises `CannotRebuild` if there is none.
        read_row: reads a kept row of a source by its position.
    """

    def __init__(self, ask: Ask, read_row: ReadRow) -> None:
        self._ask, self._read_row = ask, read_row

    def plan(self, place: ShardLocation, source: ShardCheck | None) -> Plan:
        """Return what the shard at `place` will be, made from the good rows of `source` and rows made anew.

        Raises:
            CannotRebuild: a row cannot be had.
        """
        return self._plan_pixels(place, source) if place.array == PIXELS else self._plan_tokens(place, source)

    def _plan_pixels(self, place: ShardLocation, source: ShardCheck | None) -> Plan:
        said = _trusted_trailer(source)
        if said is not None and source is not None:
            plan = Plan(place=place, source=source, status=said.status.copy(), reasons=dict(said.errors))
            plan.provenance, plan.manifest = dict(said.provenance), said.manifest()
            self._fill_pixels(plan, np.flatnonzero((said.status == OK) & ~source.good), expected=said.crc32c)
            return plan
        table = _sealed_rows(place)
        kept = source if source is not None and _recognised(source, None) else None
        if table is not None:
            status = table["status"].to_numpy().astype(np.uint8)
            reasons = {
                row: reason
                for row, reason in zip(table["row"].to_pylist(), table["error"].to_pylist(), strict=True)
                if reason is not None
            }
            plan = Plan(place=place, source=kept, status=status, reasons=reasons, manifest=table)
            good = kept.good if kept is not None else np.zeros(len(status), np.bool_)
            self._fill_pixels(plan, np.flatnonzero((status == OK) & ~good), expected=None)
        else:
            plan = self._all_pixels_anew(place)
        plan.provenance = {"rebuilt": "its trailer was lost"} | self._provenance(plan)
        self._refuse_other_digest(plan)
        return plan

    def _all_pixels_anew(self, place: ShardLocation) -> Plan:
        rows = list(place.rows)
        made = _asked(self._ask().pixels(place.dataset, rows), len(rows))
        status = np.array([FAILED if row.pixels is None else OK for row in made], np.uint8)
        reasons = {row: str(result.error) for row, result in zip(rows, made, strict=True) if result.pixels is None}
        plan = Plan(place=place, source=None, status=status, reasons=reasons)
        plan.fresh = {position: row.pixels for position, row in enumerate(made) if row.pixels is not None}
        plan.manifest = _manifest_of([row.record for row in made])
        return plan

    def _fill_pixels(
        self, plan: Plan, positions: npt.NDArray[np.int64], *, expected: npt.NDArray[np.uint32] | None
    ) -> None:
        """Make the rows at `positions` anew and accept only what fits the recorded checksums."""
        if not len(positions):
            return
        rows = (positions + plan.place.rows.start).tolist()
        lost: dict[int, str] = {}
        for position, made in zip(
            positions.tolist(), _asked(self._ask().pixels(plan.place.dataset, rows), len(rows)), strict=True
        ):
            row = plan.place.rows.start + position
            if made.pixels is None:
                lost[row] = str(made.error)
            elif expected is not None and checksum(np.ascontiguousarray(made.pixels)) != expected[position]:
                lost[row] = "other pixels than were recorded"
            else:
                plan.fresh[position] = made.pixels
        if lost:
            reasons = ", ".join(sorted(set(lost.values())))
            advice = "Bring the source images back, or delete this dataset's shards of this number and extract anew"
            message = f"the source no longer gives the pixels of {some_rows(lost)}: {reasons}. {advice}"
            raise CannotRebuild(message, tuple(lost))

    def _refuse_other_digest(self, plan: Plan) -> None:
        """Refuse pixels that are not those which tokens and sealed tables speak of."""
        expected = _expected_digests(plan.place)
        if not expected:
            return
        crcs = np.zeros(len(plan.status), np.uint32)
        for position in np.flatnonzero(plan.status == OK).tolist():
            row = plan.fresh.get(position)
            if row is None:
                assert plan.source is not None
                row = self._read_row(plan.source, position)
            crcs[position] = checksum(np.ascontiguousarray(row))
        found = digest_of(plan.place.rows, plan.status, crcs)
        if found not in expected:
            known = ", ".join(sorted(expected))
            message = f"pixels made anew have digest {found}, tokens or sealed tables expect {known}"
            raise CannotRebuild(f"{message}. Has a source image changed?", tuple(plan.place.rows))

    def _plan_tokens(self, place: ShardLocation, source: ShardCheck | None) -> Plan:
        dataset = place.dataset
        try:
            pixels = dataset.read_shard(PIXELS, place.shard)
        except errors.CodistillError as error:
            raise CannotRebuild(f"its pixels must be whole first: {error}") from error
        plan = Plan(place=place, source=source, status=pixels.status.copy(), reasons={})
        plan.pixels_digest = pixels.digest
        plan.reasons = {row: f"no pixels: {reason}" for row, reason in pixels.trailer.errors.items()}
        said = _trusted_trailer(source)
        if said is not None and said.pixels_digest != pixels.digest:
            said, source, plan.source = None, None, None
        good = np.zeros(len(plan.status), np.bool_) if source is None else source.good & (plan.status == OK)
        if said is not None:
            plan.provenance = dict(said.provenance)
            plan.status[said.status == FAILED] = FAILED
            plan.reasons |= said.errors
            recognised = True
        else:
            recognised = source is not None and _recognised(source, pixels.digest)
            states = index_states(place, source.tail.index) if recognised and source is not None else None
            if states is not None:
                own = (plan.status == OK) & (states == FAILED)
                plan.reasons |= dict.fromkeys((np.flatnonzero(own) + place.rows.start).tolist(), LOST_REASON)
                plan.status[own] = FAILED
        wanted = (plan.status == OK) & ~good if recognised else plan.status == OK
        self._fill_tokens(plan, np.flatnonzero(wanted), pixels.data, good=good)
        self._note_tokens_made(plan, said)
        return plan

    def _fill_tokens(
        self,
        plan: Plan,
        positions: npt.NDArray[np.int64],
        pixels: npt.NDArray[np.uint8],
        *,
        good: npt.NDArray[np.bool_],
    ) -> None:
        """Make tokens anew; where a stored row is good and only its origin is in doubt, keep it if it agrees."""
        if not len(positions):
            return
        recomputer = self._ask()
        made = _asked(recomputer.tokens(plan.place.dataset, plan.place.array, pixels[positions]), len(positions))
        for position, result in zip(positions.tolist(), made, strict=True):
            if good[position] and plan.source is not None and _close(self._read_row(plan.source, position), result):
                continue
            if isinstance(result, str):
                plan.status[position] = FAILED
                plan.reasons[plan.place.rows.start + position] = result
            else:
                plan.fresh[position] = _storable(plan.place, result)

    def _note_tokens_made(self, plan: Plan, said: Trailer | None) -> None:
        """Record in the provenance which rows are not what was there before."""
        if said is None:
            plan.provenance = {"rebuilt": "its trailer was lost"} | self._provenance(plan)
            return
        changed = [
            plan.place.rows.start + position
            for position, row in sorted(plan.fresh.items())
            if checksum(np.ascontiguousarray(row)) != said.crc32c[position]
        ]
        if changed:
            plan.provenance["recomputed"] = {"rows": changed, **self._provenance(plan)}

    def _provenance(self, plan: Plan) -> dict[str, Any]:
        return dict(self._ask().provenance(plan.place.dataset, plan.place.array)) if plan.fresh else {}


def _trusted_trailer(source: ShardCheck | None) -> Trailer | None:
    """Return the trailer if nothing in it contradicts anything."""
    if source is None or source.trailer is None:
        return None
    place = source.place
    clean = not contradictions(place.dataset, place.array, source.trailer, paths=place.paths)
    return source.trailer if clean else None


def _recognised(source: ShardCheck, pixels_digest: str | None) -> bool:
    """Whether a shard whose trailer is lost still shows that it belongs where it was found.

    Either the seal saw this very trailer here, or what is left of it names the identity and the rows or their pixels.
    """
    if source.belongs is False:
        return False
    place, tail = source.place, source.tail
    record = sealed_tables.read_record(place.dataset.storage, dataset=place.dataset.name, array=place.array)
    if record is not None and len(record.fingerprints) == place.dataset.shards and tail.recorded_crc32c:
        return int(record.fingerprints[place.shard]) == tail.recorded_crc32c
    names = pixels_digest or f'"rows":"{place.rows.start}:{place.rows.stop}"'
    identity = place.dataset.identity_digest(place.array)
    return identity.encode() in tail.blob and names.encode() in tail.blob


def _sealed_rows(place: ShardLocation) -> pa.Table | None:
    """Return the sealed manifest rows of a shard, if all are there."""
    within = (pc.field("row") >= place.rows.start) & (pc.field("row") < place.rows.stop)
    try:
        table = place.dataset.manifest(filter=within).replace_schema_metadata(None)
    except (errors.NotSealed, errors.Damaged):
        return None
    return table if table.num_rows == len(place.rows) else None


def _expected_digests(place: ShardLocation) -> set[str]:
    """Return the digests of the pixel shard that others know: the seal's if it knows one, else those tokens name."""
    dataset = place.dataset
    record = sealed_tables.read_record(dataset.storage, dataset=dataset.name, array=PIXELS)
    if record is not None and len(record.pixels_digests) == dataset.shards and record.pixels_digests[place.shard].any():
        return {record.pixels_digests[place.shard].tobytes().hex()}
    named = set()
    for teacher in dataset.teachers:
        try:
            said = dataset.read_trailer(teacher, place.shard)
        except errors.CodistillError:
            continue
        if said.pixels_digest is not None:
            named.add(said.pixels_digest)
    return named


def _manifest_of(records: list[Mapping[str, Any]]) -> pa.Table:
    columns = {name: [record.get(name) for record in records] for name in manifest.SCHEMA.names}
    return pa.table(columns, schema=manifest.SCHEMA)


def _storable(place: ShardLocation, row: Any) -> npt.NDArray[Any]:
    node = place.dataset.array(place.array)
    if row.shape != node.row_shape or row.dtype != node.dtype or not np.isfinite(row).all():
        expected = f"finite {node.dtype} {node.row_shape}"
        raise CannotRebuild(
            f"a row made anew is {row.dtype} {row.shape}, expected {expected}: the recomputer is at fault"
        )
    return np.asarray(row)


def _close(stored: npt.NDArray[Any], made: Any) -> bool:
    if isinstance(made, str) or stored.shape != np.shape(made):
        return False
    difference = np.linalg.norm(stored.astype(np.float64) - np.asarray(made, np.float64))
    return bool(difference <= CLOSE * np.linalg.norm(stored.astype(np.float64)))


def _asked(results: Iterable[Any], count: int) -> list[Any]:
    try:
        made = list(results)
    except errors.CodistillError as error:
        raise CannotRebuild(f"its rows cannot be made anew: {error}") from error
    if len(made) != count:
        raise CannotRebuild(f"{count} rows asked for, {len(made)} made anew: the recomputer is at fault")
    return made


def dependents(dataset: Dataset, shard: int, rows: Iterable[int]) -> dict[str, list[int]]:
    """Return, by teacher, the ok token rows that were computed from these rows of pixels."""
    wanted = list(rows)
    found: dict[str, list[int]] = {}
    for teacher in dataset.teachers:
        try:
            said = dataset.read_trailer(teacher, shard)
        except errors.CodistillError:
            continue
        here = [row for row in wanted if said.status[row - said.rows.start] == OK]
        if here:
            found[teacher] = here
    return found
