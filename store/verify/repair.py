"""Repair of the problems that `verify` found: rebuild, quarantine the damaged object, publish, check, then delete it.

A shard is built completely, beside the damaged one, before that is renamed; at any moment every good row exists in an
object under its name or in quarantine, and the next repair continues one that was killed.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from store import errors
from store.cache.cache import Cache
from store.cache.cache import open as open_cache
from store.format.jpeg import EncodedPixels
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import OK, PIXELS
from store.sealing.seal import seal
from store.storage.base import Location
from store.storage.location import open_storage
from store.verify import jpeg_check
from store.verify.any_shard import check_shard
from store.verify.code_repair import repair_codes
from store.verify.documents import repair_documents
from store.verify.jpeg_check import JpegCheck
from store.verify.problems import IN_SHARD, OF_SEAL, OF_SHARD, Kind, Problem
from store.verify.rebuild import Plan, Planner, dependents
from store.verify.rebuilt_rows import CannotRebuild
from store.verify.recompute import Recomputer, find_recomputer
from store.verify.sealed_check import sealed_keys
from store.verify.shard_check import ShardCheck, ShardLocation
from store.verify.tree_check import QUARANTINE, Tree
from store.verify.verify import VerifyReport, verify

Target = tuple[str, str, int]  # dataset, array, shard


@dataclass(frozen=True, kw_only=True)
class NotRepaired:
    """A shard that could not be repaired; its object was not touched.

    Attributes:
        dataset, array, shard: the shard.
        reason: why, and what to do.
        rows: rows that can be neither copied nor recomputed.
        dependents: token rows that were computed from them, by teacher.
    """

    dataset: str
    array: str
    shard: int
    reason: str
    rows: tuple[int, ...] = ()
    dependents: dict[str, list[int]] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"shard {self.shard} of '{self.dataset}/{self.array}' is left as it is: {self.reason}"
        tokens = "; ".join(f"{name} rows {', '.join(map(str, rows))}" for name, rows in self.dependents.items())
        return f"{text}. Tokens computed from these pixels: {tokens}" if tokens else text


@dataclass(kw_only=True)
class RepairReport:
    """Result of a repair.

    Attributes:
        documents: keys of zarr.json documents, and of arrays of codes, that were written again.
        repaired: shards that are whole again.
        left: shards that could not be repaired.
        removed: keys of temporary objects, and of sealed tables that were deleted to be written again.
        sealed: whether the cache was sealed again.
        notes: sentences for people.
    """

    documents: list[str] = field(default_factory=list)
    repaired: list[Target] = field(default_factory=list)
    left: list[NotRepaired] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    sealed: bool = False
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        left = [{**vars(entry), "rows": list(entry.rows)} for entry in self.left]
        repaired = [list(target) for target in self.repaired]
        return {**vars(self), "repaired": repaired, "left": left}


def repair(
    cache_or_location: Cache | Location,
    report: VerifyReport,
    *,
    catalogue: Path | None = None,
    device: str = "auto",
    progress: bool = False,
) -> RepairReport:
    """Repair the documents, shards, sealed tables and leftovers that `verify` reported.

    Documents come first, as what they are known to have been; a damaged one hides other problems, so the cache is then
    checked again. Rows whose checksums hold are copied; the recomputer installed under the entry-point group
    `codistill.recompute` makes the others. Image lists and foreign objects are not touched.

    Args:
        cache_or_location: cache that was checked, or its path or URL.
        report: result of the check, from `store.verify.verify.verify`.
        catalogue: file with the locations of images and weights, for rows that must be recomputed.
        device: device that teachers run on.
        progress: show a progress bar.
    """
    opened = cache_or_location if isinstance(cache_or_location, Cache) else None
    storage = open_storage(cache_or_location) if not isinstance(cache_or_location, Cache) else cache_or_location.storage
    documents: list[str] = []
    while True:
        repaired, left = repair_documents(storage, report.problems)
        codes, codes_left = repair_codes(storage, report.problems)
        repaired, left = [*repaired, *codes], [*left, *codes_left]
        if not repaired or set(repaired) <= set(documents):
            break
        documents += repaired
        opened, report = None, verify(report.location, quick=report.quick, progress=progress)
    try:
        cache = opened or open_cache(report.location)
    except (errors.Damaged, errors.UnsupportedFormat) as error:
        return RepairReport(documents=documents, notes=[*left, str(error)])
    done = _Repairer(cache, report, catalogue=catalogue, device=device, progress=progress).run()
    done.documents, done.notes = documents, [*left, *done.notes]
    return done


def repairable(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems that `repair` acts on."""
    kinds = OF_SHARD | OF_SEAL | {Kind.METADATA_DAMAGED, Kind.CODE_DAMAGED, Kind.LEFTOVER, Kind.QUARANTINED}
    return [problem for problem in problems if problem.kind in kinds]


class _Repairer:
    def __init__(
        self, cache: Cache, report: VerifyReport, *, catalogue: Path | None, device: str, progress: bool
    ) -> None:
        self._cache, self._storage = cache, cache.storage
        self._problems = report.problems
        self._catalogue, self._device, self._progress = catalogue, device, progress
        self._tree = Tree(cache)
        self._recomputer: Recomputer | None = None
        self._planner = Planner(self._get_recomputer, self._read_row)
        self._other_copies: dict[Target, list[str]] = {}
        self._quarantined: dict[str, Target] = {}  # quarantined object -> the shard that it belongs to
        self._done = RepairReport()

    def run(self) -> RepairReport:
        """Repair leftovers, then shards (pixels before tokens), then sealed tables."""
        if any(problem.kind is Kind.LEFTOVER for problem in self._problems):
            self._done.removed += self._storage.sweep()
        targets = self._targets()
        for target in tqdm(targets, desc="repair", unit="shard", disable=not self._progress):
            self._repair(target)
        self._delete_quarantined()
        self._seal_again(bool(self._done.repaired))
        return self._done

    def _targets(self) -> list[Target]:
        """Return the shards to rebuild, pixels first, and note the other objects that may hold their rows."""
        targets: set[Target] = set()
        for problem in self._problems:
            if problem.kind in OF_SHARD:
                assert problem.dataset is not None
                assert problem.array is not None
                assert problem.shard is not None
                array = PIXELS if problem.kind is Kind.PIXELS_MISSING else problem.array
                targets.add((problem.dataset, array, problem.shard))
            if problem.kind in (Kind.MISPLACED, Kind.QUARANTINED):
                owner = self._owner(problem)
                if owner is not None:
                    self._other_copies.setdefault(owner, []).append(problem.key)
                    if problem.kind is Kind.QUARANTINED:
                        self._quarantined[problem.key] = owner
                    if not self._storage.exists(self._location(owner).key):
                        targets.add(owner)
        return sorted(targets, key=lambda target: (target[0], target[1] != PIXELS, target[1:]))

    def _owner(self, problem: Problem) -> Target | None:
        """Return the shard that a misplaced or quarantined object belongs to: by its trailer, else by its name."""
        if problem.kind is Kind.QUARANTINED:
            parts = problem.key.rpartition("/")[2].split(".")
            target = (parts[0], parts[1], int(parts[2])) if len(parts) == 4 and parts[2].isdecimal() else None
        else:
            target = (str(problem.dataset), str(problem.array), problem.shard or 0)
        if target is None or not self._exists(target):
            return None
        trailer = check_shard(replace(self._location(target), key=problem.key)).tail.trailer
        stated = target if trailer is None else (trailer.dataset, trailer.array, trailer.shard)
        if not self._exists(stated):
            return None
        location = self._location(stated)
        foreign = trailer is not None and trailer.identity_digest != location.dataset.identity_digest(location.array)
        return target if foreign and problem.kind is Kind.QUARANTINED else None if foreign else stated

    def _exists(self, target: Target) -> bool:
        arrays = self._tree.arrays.get(target[0], [])
        return target[1] in arrays and 0 <= target[2] < self._cache.part(target[0]).shards

    def _location(self, target: Target) -> ShardLocation:
        dataset, array, shard = target
        return ShardLocation.of(self._cache.part(dataset), array, shard, paths=self._tree.paths[dataset])

    def _repair(self, target: Target) -> None:
        location = self._location(target)
        try:
            source = self._source(target, location)
            if source is not None and source.location.key == location.key and not self._wrong(source):
                return  # another process made it meanwhile, or it was whole before
            plan = self._planner.plan(location, source)
            self._publish(plan, target)
        except CannotRebuild as error:
            rows = error.rows
            tokens = dependents(location.dataset, location.shard, rows) if location.array == PIXELS else {}
            dataset, array, shard = target
            left = NotRepaired(
                dataset=dataset, array=array, shard=shard, reason=error.reason, rows=rows, dependents=tokens
            )
            self._done.left.append(left)

    def _source(self, target: Target, location: ShardLocation) -> ShardCheck | None:
        """Return the best object with rows of this shard: its own, or a misplaced or quarantined one."""
        candidates = []
        for key in (location.key, *self._other_copies.get(target, ())):
            try:
                check = check_shard(replace(location, key=key))
            except FileNotFoundError:
                continue
            if check.belongs is not False:
                candidates.append(check)
        return max(candidates, key=_worth, default=None)

    def _wrong(self, check: ShardCheck) -> bool:
        """Return whether a shard is damaged, or was computed from other pixels than are stored."""
        location = check.location
        if check.problems or check.trailer is None or location.array == PIXELS:
            return bool(check.problems) or check.trailer is None
        try:
            return location.dataset.read_trailer(PIXELS, location.shard).digest != check.trailer.pixels_digest
        except errors.CodistillError:
            return True

    def _publish(self, plan: Plan, target: Target) -> None:
        """Write a shard, quarantine the old object, give the new one its name, and check the result."""
        location = plan.location
        writing = location.dataset.write_shard(
            location.array,
            location.shard,
            provenance=plan.provenance,
            pixels_digest=plan.pixels_digest,
            measured=plan.measured,
        )
        with writing as writer:
            for position, row in enumerate(location.rows):
                if plan.status[position] != OK:
                    writer.fail(plan.reasons[row])
                elif position in plan.recomputed:
                    writer.append(plan.recomputed[position])
                elif plan.source is not None:
                    writer.append(self._read_row(plan.source, position))
            quarantined = self._quarantine(target, location.key)
            try:
                writer.finish(plan.manifest)
            except BaseException:
                if quarantined is not None and not self._storage.exists(location.key):
                    self._storage.move(quarantined, location.key)
                raise
        check = check_shard(location)
        if not self._wrong(check):
            self._done.repaired.append(target)
            return
        self._put_back(quarantined, location.key)
        dataset, array, shard = target
        problems = "; ".join(problem.message for problem in check.problems) or "its pixels changed meanwhile"
        reason = f"it was written again and the new object was not whole either ({problems})"
        self._done.left.append(NotRepaired(dataset=dataset, array=array, shard=shard, reason=reason))

    def _put_back(self, quarantined: str | None, key: str) -> None:
        """Restore what was there before a repair that failed: the damaged object, or none."""
        self._storage.delete(key)
        if quarantined is not None:
            self._storage.move(quarantined, key)
            self._rename_copy(quarantined, key)
            del self._quarantined[quarantined]

    def _quarantine(self, target: Target, key: str) -> str | None:
        """Rename the object at `key` into quarantine, if there is one; return its new key."""
        dataset, array, shard = target
        new_key = f"{QUARANTINE}/{dataset}.{array}.{shard}.{secrets.token_hex(4)}"
        try:
            self._storage.move(key, new_key)
        except FileNotFoundError:
            return None
        owners = self._rename_copy(key, new_key)
        self._quarantined[new_key] = owners[0] if owners else target
        return new_key

    def _rename_copy(self, key: str, new_key: str) -> list[Target]:
        """Note that an object that may hold rows of other shards was renamed; return those shards."""
        owners = [owner for owner, keys in self._other_copies.items() if key in keys]
        for owner in owners:
            self._other_copies[owner] = [new_key if known == key else known for known in self._other_copies[owner]]
        return owners

    def _delete_quarantined(self) -> None:
        """Delete quarantined objects once the shard that they belong to is whole."""
        for key, owner in self._quarantined.items():
            try:
                whole = owner in self._done.repaired or not self._wrong(check_shard(self._location(owner)))
            except FileNotFoundError:
                whole = False
            if whole:
                self._storage.delete(key)
            else:
                self._done.notes.append(f"'{key}' is kept: the shard that it belongs to is not whole")

    def _seal_again(self, repaired: bool) -> None:
        """Write sealed tables again, if there were any and all shards are whole."""
        stale = {(p.dataset, p.array) for p in self._problems if p.kind in OF_SEAL and p.dataset and p.array}
        sealed_before = any(True for _ in self._storage.list_objects("seal"))
        if not stale and not (repaired and sealed_before):
            return
        if self._done.left:
            self._done.notes.append("sealed tables are left as they are until all shards are whole")
            return
        for dataset, array in sorted(stale):
            for key in sealed_keys(self._cache.part(str(dataset)), str(array)):
                self._storage.delete(key)
                self._done.removed.append(key)
        try:
            seal(self._cache)
            self._done.sealed = True
        except errors.Damaged as error:
            self._done.notes.append(str(error))

    def _get_recomputer(self) -> Recomputer:
        if self._recomputer is None:
            try:
                self._recomputer = find_recomputer(self._cache, catalogue=self._catalogue, device=self._device)
            except errors.CodistillError as error:
                raise CannotRebuild(f"its rows cannot be recomputed: {error}") from error
        if self._recomputer is None:
            raise CannotRebuild(
                "rows must be recomputed, and nothing is installed that can. Run: pip install 'codistill[extract]'"
            )
        return self._recomputer

    def _read_row(self, source: ShardCheck, position: int) -> npt.NDArray[Any] | EncodedPixels:
        """Return a row that was good, checked again: a bad read must not get a new checksum that fits it."""
        number = source.location.rows.start + position
        other = f"row {number} of '{source.location.key}' was good and reads differently now. Run this again"
        if isinstance(source, JpegCheck):
            encoded = jpeg_check.read_row(source, position)
            if encoded is None:
                raise CannotRebuild(other)
            return encoded
        node, layout = source.location.dataset.array(source.location.array), source.location.layout
        row, crc = np.empty(node.row_shape, node.dtype), np.zeros(CHECKSUM_BYTES, np.uint8)
        with self._storage.open_object(source.location.key) as opened:
            opened.read_into([row.reshape(-1).view(np.uint8), crc], position * layout.stride, layout.stride)
        trailer = source.trailer
        expected = int.from_bytes(crc.tobytes(), "little") if trailer is None else int(trailer.crc32c[position])
        if checksum(row) != expected:
            raise CannotRebuild(other)
        return row


def _worth(check: ShardCheck) -> tuple[bool, bool, int]:
    return check.trailer is not None, not any(p.kind in IN_SHARD for p in check.problems), int(check.good.sum())
