"""Plan of a rebuilt shard: which rows are copied, which stay failed, which are recomputed. Nothing is written here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import errors
from store.cache.code_rows import Measured
from store.cache.dataset import Dataset
from store.cache.reader import Shard
from store.cache.seal_record import trusted_record
from store.common.text import some_rows
from store.format import manifest
from store.format.jpeg import pixels_checksum
from store.format.schema import FAILED, OK, PIXELS
from store.format.trailer import Trailer, digest_of
from store.verify.rebuilt_rows import CannotRebuild, Row, close, code_rows, complete, storable, stored_form
from store.verify.recompute import Recomputer
from store.verify.shard_check import ShardCheck, ShardLocation, contradictions, index_states

LOST_REASON = "unknown: the reason was lost with a damaged trailer"


@dataclass(kw_only=True)
class Plan:
    """Contents of a rebuilt shard.

    Attributes:
        location: location of the shard.
        source: object that rows are copied from; None if none are copied.
        status: uint8 [rows].
        reasons: reasons by failed row.
        recomputed: recomputed rows by position in the shard, as they are stored; the other ok rows are copied.
        provenance: provenance for the trailer.
        pixels_digest: digest of the pixel shard, for the trailer of tokens.
        manifest: manifest rows, for the trailer of pixels.
        measured: moments and distortion, for the trailer of codes.
    """

    location: ShardLocation
    source: ShardCheck | None
    status: npt.NDArray[np.uint8]
    reasons: dict[int, str]
    recomputed: dict[int, Row] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    pixels_digest: str | None = None
    manifest: pa.Table | None = None
    measured: Measured | None = None


GetRecomputer = Callable[[], Recomputer]
ReadRow = Callable[[ShardCheck, int], Row]


class Planner:
    """Plans rebuilt shards of one cache.

    Args:
        get_recomputer: returns the recomputer, or raises `CannotRebuild` if there is none.
        read_row: reads a good row of a source by its position.
    """

    def __init__(self, get_recomputer: GetRecomputer, read_row: ReadRow) -> None:
        self._get_recomputer, self._read_row = get_recomputer, read_row

    def plan(self, location: ShardLocation, source: ShardCheck | None) -> Plan:
        """Return the plan of a shard, from the good rows of `source` and recomputed rows.

        Raises:
            CannotRebuild: a row can be neither copied nor recomputed.
        """
        return self._plan_pixels(location, source) if location.array == PIXELS else self._plan_tokens(location, source)

    def _plan_pixels(self, location: ShardLocation, source: ShardCheck | None) -> Plan:
        trailer = _trusted_trailer(source)
        if trailer is not None and source is not None:
            plan = Plan(location=location, source=source, status=trailer.status.copy(), reasons=dict(trailer.errors))
            plan.provenance, plan.manifest = dict(trailer.provenance), trailer.manifest()
            expected = trailer.crc32c if trailer.pixels_crc32c is None else trailer.pixels_crc32c
            self._fill_pixels(plan, np.flatnonzero((trailer.status == OK) & ~source.good), expected=expected)
            return plan
        table = _sealed_rows(location)
        usable = source if source is not None and _recognised(source, None) else None
        if table is not None:
            status = table["status"].to_numpy().astype(np.uint8)
            reasons = {
                row: reason
                for row, reason in zip(table["row"].to_pylist(), table["error"].to_pylist(), strict=True)
                if reason is not None
            }
            plan = Plan(location=location, source=usable, status=status, reasons=reasons, manifest=table)
            good = usable.good if usable is not None else np.zeros(len(status), np.bool_)
            self._fill_pixels(plan, np.flatnonzero((status == OK) & ~good), expected=None)
        else:
            plan = self._recompute_all_pixels(location)
        plan.provenance = {"rebuilt": "its trailer was lost"} | self._provenance(plan)
        self._refuse_other_digest(plan)
        return plan

    def _recompute_all_pixels(self, location: ShardLocation) -> Plan:
        rows = list(location.rows)
        made = complete(self._get_recomputer().pixels(location.dataset, rows), len(rows))
        status = np.array([FAILED if row.pixels is None else OK for row in made], np.uint8)
        reasons = {row: str(result.error) for row, result in zip(rows, made, strict=True) if result.pixels is None}
        plan = Plan(location=location, source=None, status=status, reasons=reasons)
        pixels = {position: row.pixels for position, row in enumerate(made) if row.pixels is not None}
        plan.recomputed = {position: stored_form(location, row) for position, row in pixels.items()}
        plan.manifest = _manifest_of([row.record for row in made])
        return plan

    def _fill_pixels(
        self, plan: Plan, positions: npt.NDArray[np.int64], *, expected: npt.NDArray[np.uint32] | None
    ) -> None:
        """Recompute the rows at `positions`; accept only rows that equal the recorded checksums."""
        if not len(positions):
            return
        rows = (positions + plan.location.rows.start).tolist()
        lost: dict[int, str] = {}
        made = complete(self._get_recomputer().pixels(plan.location.dataset, rows), len(rows))
        for position, result in zip(positions.tolist(), made, strict=True):
            row = plan.location.rows.start + position
            if result.pixels is None:
                lost[row] = str(result.error)
                continue
            pixels = stored_form(plan.location, result.pixels)
            if expected is not None and pixels_checksum(pixels) != expected[position]:
                lost[row] = "other pixels than were recorded"
            else:
                plan.recomputed[position] = pixels
        if lost:
            reasons = ", ".join(sorted(set(lost.values())))
            advice = (
                "Bring the source images back, or delete this dataset's shards of this number and extract them again"
            )
            message = f"the source no longer gives the pixels of {some_rows(lost)}: {reasons}. {advice}"
            raise CannotRebuild(message, tuple(lost))

    def _refuse_other_digest(self, plan: Plan) -> None:
        """Refuse pixels with another digest than tokens and sealed tables record."""
        expected = _expected_digests(plan.location)
        if not expected:
            return
        crcs = np.zeros(len(plan.status), np.uint32)
        for position in np.flatnonzero(plan.status == OK).tolist():
            row = plan.recomputed.get(position)
            if row is None:
                assert plan.source is not None
                row = self._read_row(plan.source, position)
            crcs[position] = pixels_checksum(row)
        digest = digest_of(plan.location.rows, plan.status, crcs)
        if digest not in expected:
            known = ", ".join(sorted(expected))
            message = f"recomputed pixels have digest {digest}, tokens or sealed tables expect {known}"
            raise CannotRebuild(f"{message}. Has a source image changed?", tuple(plan.location.rows))

    def _plan_tokens(self, location: ShardLocation, source: ShardCheck | None) -> Plan:
        dataset = location.dataset
        try:
            pixels = dataset.read_shard(PIXELS, location.shard)
        except errors.CodistillError as error:
            raise CannotRebuild(f"its pixels must be whole first: {error}") from error
        wrong = contradictions(dataset, PIXELS, pixels.trailer, paths=location.paths)
        if wrong:
            raise CannotRebuild(f"its pixels must be whole first: {'; '.join(wrong)}")
        plan = Plan(location=location, source=source, status=pixels.status.copy(), reasons={})
        plan.pixels_digest = pixels.digest
        plan.reasons = {row: f"no pixels: {reason}" for row, reason in pixels.trailer.errors.items()}
        trailer = _trusted_trailer(source)
        if trailer is not None and trailer.pixels_digest != pixels.digest:
            trailer, source, plan.source = None, None, None
        good = np.zeros(len(plan.status), np.bool_) if source is None else source.good & (plan.status == OK)
        if trailer is not None:
            plan.provenance = dict(trailer.provenance)
            plan.status[trailer.status == FAILED] = FAILED
            plan.reasons |= trailer.errors
            recognised = True
        else:
            recognised = source is not None and _recognised(source, pixels.digest)
            states = index_states(location, source.tail.index) if recognised and source is not None else None
            if states is not None:
                own = (plan.status == OK) & (states == FAILED)
                plan.reasons |= dict.fromkeys((np.flatnonzero(own) + location.rows.start).tolist(), LOST_REASON)
                plan.status[own] = FAILED
        doubtful = (plan.status == OK) & ~good if recognised else plan.status == OK
        if dataset.teacher(location.array).code is not None:
            self._fill_codes(plan, doubtful, pixels, good=good, trailer=trailer)
        else:
            self._fill_tokens(plan, np.flatnonzero(doubtful), pixels, good=good)
        self._note_recomputed(plan, trailer)
        return plan

    def _fill_codes(
        self,
        plan: Plan,
        doubtful: npt.NDArray[np.bool_],
        pixels: Shard,
        *,
        good: npt.NDArray[np.bool_],
        trailer: Trailer | None,
    ) -> None:
        """Recompute rows as `_fill_tokens` does, and encode them.

        Moments and distortion are those of the true tokens of all rows. The trailer tells them; without one, or where a
        row fails now, all rows are computed again for them, also those whose codes are good.
        """
        if trailer is not None:
            self._fill_tokens(plan, np.flatnonzero(doubtful), pixels, good=good)
            if np.array_equal(plan.status, trailer.status):
                assert trailer.moments is not None
                assert trailer.distortion is not None
                plan.measured = Measured(moments=trailer.moments, distortion=trailer.distortion)
                return
        positions = np.flatnonzero(plan.status == OK)
        plan.measured = self._fill_tokens(plan, positions, pixels, good=good)

    def _fill_tokens(
        self,
        plan: Plan,
        positions: npt.NDArray[np.int64],
        pixels: Shard,
        *,
        good: npt.NDArray[np.bool_],
    ) -> Measured | None:
        """Recompute tokens; where a stored row is good and only its origin is in doubt, copy it if it agrees.

        Returns:
            Sums over the recomputed rows for arrays of codes; None for others.
        """
        location = plan.location
        codes = code_rows(location, rows=len(positions))
        if not len(positions):
            return None if codes is None else codes.measured()
        tokens = self._get_recomputer().tokens(
            location.dataset,
            location.array,
            pixels=pixels,
            positions=positions.tolist(),
            provenance=plan.provenance,
        )
        made = complete(tokens, len(positions))
        for position, result in zip(positions.tolist(), made, strict=True):
            if isinstance(result, str):
                plan.status[position] = FAILED
                plan.reasons[location.rows.start + position] = result
                continue
            row = storable(location, position, result, codes)
            if good[position] and plan.source is not None and close(self._read_row(plan.source, position), row):
                continue
            plan.recomputed[position] = row
        return None if codes is None else codes.measured()

    def _note_recomputed(self, plan: Plan, trailer: Trailer | None) -> None:
        """List the rows that changed in the provenance."""
        if trailer is None:
            plan.provenance = {"rebuilt": "its trailer was lost"} | self._provenance(plan)
            return
        changed = [
            plan.location.rows.start + position
            for position, row in sorted(plan.recomputed.items())
            if pixels_checksum(row) != trailer.crc32c[position]
        ]
        if changed:
            plan.provenance["recomputed"] = {"rows": changed, **self._provenance(plan)}

    def _provenance(self, plan: Plan) -> dict[str, Any]:
        return (
            dict(self._get_recomputer().provenance(plan.location.dataset, plan.location.array))
            if plan.recomputed
            else {}
        )


def dependents(dataset: Dataset, shard: int, rows: Iterable[int]) -> dict[str, list[int]]:
    """Return the ok token rows that were computed from these rows of pixels, by teacher."""
    pixel_rows = list(rows)
    token_rows: dict[str, list[int]] = {}
    for teacher in dataset.teachers:
        try:
            trailer = dataset.read_trailer(teacher, shard)
        except errors.CodistillError:
            continue
        computed = [row for row in pixel_rows if trailer.status[row - trailer.rows.start] == OK]
        if computed:
            token_rows[teacher] = computed
    return token_rows


def _trusted_trailer(source: ShardCheck | None) -> Trailer | None:
    """Return the trailer if it contradicts neither itself nor its dataset."""
    if source is None or source.trailer is None:
        return None
    location = source.location
    clean = not contradictions(location.dataset, location.array, source.trailer, paths=location.paths)
    return source.trailer if clean else None


def _recognised(source: ShardCheck, pixels_digest: str | None) -> bool:
    """Return whether a shard whose trailer is lost can still be shown to belong to its location.

    Either the seal recorded this trailer here, or what is left of it names the identity and the rows or their pixels.
    """
    if source.belongs is False:
        return False
    location, tail = source.location, source.tail
    record = trusted_record(location.dataset.storage, dataset=location.dataset.name, array=location.array)
    if record is not None and len(record.fingerprints) == location.dataset.shards and tail.recorded_crc32c:
        return int(record.fingerprints[location.shard]) == tail.recorded_crc32c
    names = pixels_digest or f'"rows":"{location.rows.start}:{location.rows.stop}"'
    identity = location.dataset.identity_digest(location.array)
    return identity.encode() in tail.blob and names.encode() in tail.blob


def _sealed_rows(location: ShardLocation) -> pa.Table | None:
    """Return the sealed manifest rows of a shard, if all are there."""
    within = (pc.field("row") >= location.rows.start) & (pc.field("row") < location.rows.stop)
    try:
        table = location.dataset.manifest(filter=within).replace_schema_metadata(None)
    except (errors.NotSealed, errors.Damaged):
        return None
    return table if table.num_rows == len(location.rows) else None


def _expected_digests(location: ShardLocation) -> set[str]:
    """Return the digests recorded for a pixel shard: that of the seal if there is one, else those that tokens name."""
    dataset = location.dataset
    record = trusted_record(dataset.storage, dataset=dataset.name, array=PIXELS)
    if (
        record is not None
        and len(record.pixels_digests) == dataset.shards
        and record.pixels_digests[location.shard].any()
    ):
        return {record.pixels_digests[location.shard].tobytes().hex()}
    named = set()
    for teacher in dataset.teachers:
        try:
            trailer = dataset.read_trailer(teacher, location.shard)
        except errors.CodistillError:
            continue
        if trailer.pixels_digest is not None:
            named.add(trailer.pixels_digest)
    return named


def _manifest_of(records: list[Mapping[str, Any]]) -> pa.Table:
    columns = {name: [record.get(name) for record in records] for name in manifest.SCHEMA.names}
    return pa.table(columns, schema=manifest.SCHEMA)
