"""Repairing what `verify` found: rebuild, put the damaged object aside, publish, check, and only then delete.

A shard is built completely, beside the damaged one, before that is renamed away; at any moment every good row exists
in an object under its name or in quarantine, and a repair that was killed is taken up by the next.
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
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import OK, PIXELS
from store.sealing.seal import seal
from store.verify.problems import IN_SHARD, OF_SEAL, OF_SHARD, Kind, Problem
from store.verify.rebuild import CannotRebuild, Plan, Planner, dependents
from store.verify.recompute import Recomputer, find_recomputer
from store.verify.sealed_check import sealed_keys
from store.verify.shard_check import ShardCheck, ShardLocation, check_shard
from store.verify.tree_check import QUARANTINE, Tree
from store.verify.verify import VerifyReport

Target = tuple[str, str, int]  # dataset, array, shard


@dataclass(frozen=True, kw_only=True)
class NotRepaired:
    """A shard that could not be repaired; its object was not touched.

    Attributes:
        dataset, array, shard: which.
        reason: why, and what to do.
        rows: that cannot be had.
        dependents: by teacher, the token rows that were computed from them.
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
    """What a repair did.

    Attributes:
        repaired: shards that are whole again.
        left: shards that are not.
        removed: keys of leftovers and sealed tables that were deleted to be made anew.
        sealed: whether the cache was sealed again.
        notes: sentences for people.
    """

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
    cache: Cache,
    report: VerifyReport,
    *,
    catalogue: Path | None = None,
    device: str = "auto",
    progress: bool = False,
) -> RepairReport:
    """Repair the shards, sealed tables and leftovers that a full `verify` named.

    Rows whose checksums hold are kept; others are made anew by what is installed under the entry-point group
    `codistill.recompute`. Metadata, image lists and foreign objects are not touched.

    Args:
        cache: the cache that `report` is about.
        report: from `store.verify.verify`.
        catalogue: says where images and weights are, for rows that must be made anew.
        device: where teachers run.
        progress: show a progress bar.
    """
    return _Repairer(cache, report, catalogue=catalogue, device=device, progress=progress).run()


class _Repairer:
    def __init__(
        self, cache: Cache, report: VerifyReport, *, catalogue: Path | None, device: str, progress: bool
    ) -> None:
        self._cache, self._storage = cache, cache.storage
        self._problems = report.problems
        self._catalogue, self._device, self._progress = catalogue, device, progress
        self._tree = Tree(cache)
        self._recomputer: Recomputer | None = None
        self._planner = Planner(self._ask, self._read_row)
        self._donors: dict[Target, list[str]] = {}
        self._quarantined: dict[str, Target] = {}  # object put aside -> the shard that it belongs to
        self._done = RepairReport()

    def run(self) -> RepairReport:
        """Leftovers, then shards (pixels before tokens), then sealed tables."""
        if any(problem.kind is Kind.LEFTOVER for problem in self._problems):
            self._done.removed += self._storage.sweep()
        targets = self._targets()
        for target in tqdm(targets, desc="repair", unit="shard", disable=not self._progress):
            self._repair(target)
        self._delete_quarantined()
        self._seal_again(bool(self._done.repaired))
        return self._done

    def _targets(self) -> list[Target]:
        """Return the shards to rebuild, pixels first, and learn which objects may hold their rows."""
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
                    self._donors.setdefault(owner, []).append(problem.key)
                    if problem.kind is Kind.QUARANTINED:
                        self._quarantined[problem.key] = owner
                    if not self._storage.exists(self._place(owner).key):
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
        said = check_shard(replace(self._place(target), key=problem.key)).tail.trailer
        stated = target if said is None else (said.dataset, said.array, said.shard)
        if not self._exists(stated):
            return None
        place = self._place(stated)
        foreign = said is not None and said.identity_digest != place.dataset.identity_digest(place.array)
        return target if foreign and problem.kind is Kind.QUARANTINED else None if foreign else stated

    def _exists(self, target: Target) -> bool:
        arrays = self._tree.arrays.get(target[0], [])
        return target[1] in arrays and 0 <= target[2] < self._cache[target[0]].shards

    def _place(self, target: Target) -> ShardLocation:
        dataset, array, shard = target
        return ShardLocation.of(self._cache[dataset], array, shard, paths=self._tree.paths[dataset])

    def _repair(self, target: Target) -> None:
        place = self._place(target)
        try:
            source = self._source(target, place)
            if source is not None and source.place.key == place.key and not self._wrong(source):
                return  # somebody else made it meanwhile, or it was whole all along
            plan = self._planner.plan(place, source)
            self._publish(plan, target)
        except CannotRebuild as refusal:
            rows = refusal.rows
            tokens = dependents(place.dataset, place.shard, rows) if place.array == PIXELS else {}
            dataset, array, shard = target
            left = NotRepaired(
                dataset=dataset, array=array, shard=shard, reason=refusal.reason, rows=rows, dependents=tokens
            )
            self._done.left.append(left)

    def _source(self, target: Target, place: ShardLocation) -> ShardCheck | None:
        """Return the best object with rows of this shard: the one in place, or one misplaced or put aside."""
        found = []
        for key in (place.key, *self._donors.get(target, ())):
            try:
                check = check_shard(replace(place, key=key))
            except FileNotFoundError:
                continue
            if check.belongs is not False:
                found.append(check)
        return max(found, key=_worth, default=None)

    def _wrong(self, check: ShardCheck) -> bool:
        """Whether a shard in its place is damaged, or was computed from other pixels than are stored."""
        place = check.place
        if check.problems or check.trailer is None or place.array == PIXELS:
            return bool(check.problems) or check.trailer is None
        try:
            return place.dataset.read_trailer(PIXELS, place.shard).digest != check.trailer.pixels_digest
        except errors.CodistillError:
            return True

    def _publish(self, plan: Plan, target: Target) -> None:
        """Write a shard, put the old object aside, give the new one its name, and check what is there now."""
        place = plan.place
        writing = place.dataset.write_shard(
            place.array, place.shard, provenance=plan.provenance, pixels_digest=plan.pixels_digest
        )
        with writing as writer:
            for position, row in enumerate(place.rows):
                if plan.status[position] != OK:
                    writer.fail(plan.reasons[row])
                elif position in plan.fresh:
                    writer.append(plan.fresh[position])
                elif plan.source is not None:
                    writer.append(self._read_row(plan.source, position))
            aside = self._put_aside(target, place.key)
            try:
                writer.finish(plan.manifest)
            except BaseException:
                if aside is not None and not self._storage.exists(place.key):
                    self._storage.move(aside, place.key)
                raise
        check = check_shard(place)
        if self._wrong(check):
            dataset, array, shard = target
            reason = f"what was put in its place is not whole ({check.problems}); the old object is '{aside}'"
            self._done.left.append(NotRepaired(dataset=dataset, array=array, shard=shard, reason=reason))
        else:
            self._done.repaired.append(target)

    def _put_aside(self, target: Target, key: str) -> str | None:
        """Rename the object at `key` into quarantine, if there is one."""
        dataset, array, shard = target
        aside = f"{QUARANTINE}/{dataset}.{array}.{shard}.{secrets.token_hex(4)}"
        try:
            self._storage.move(key, aside)
        except FileNotFoundError:
            return None
        owners = [owner for owner, keys in self._donors.items() if key in keys]
        for owner in owners:
            self._donors[owner] = [aside if known == key else known for known in self._donors[owner]]
        self._quarantined[aside] = owners[0] if owners else target
        return aside

    def _delete_quarantined(self) -> None:
        """Delete what was put aside once the shard that it belongs to is whole."""
        for key, owner in self._quarantined.items():
            try:
                whole = owner in self._done.repaired or not self._wrong(check_shard(self._place(owner)))
            except FileNotFoundError:
                whole = False
            if whole:
                self._storage.delete(key)
            else:
                self._done.notes.append(f"'{key}' is kept: the shard that it belongs to is not whole")

    def _seal_again(self, repaired: bool) -> None:
        """Make sealed tables anew, if there were any and all shards are whole."""
        stale = {(p.dataset, p.array) for p in self._problems if p.kind in OF_SEAL and p.dataset and p.array}
        sealed_before = any(True for _ in self._storage.list_objects("seal"))
        if not stale and not (repaired and sealed_before):
            return
        if self._done.left:
            self._done.notes.append("sealed tables are left as they are until all shards are whole")
            return
        for dataset, array in sorted(stale):
            for key in sealed_keys(self._cache[str(dataset)], str(array)):
                self._storage.delete(key)
                self._done.removed.append(key)
        try:
            seal(self._cache)
            self._done.sealed = True
        except errors.Damaged as error:
            self._done.notes.append(str(error))

    def _ask(self) -> Recomputer:
        if self._recomputer is None:
            try:
                self._recomputer = find_recomputer(self._cache, catalogue=self._catalogue, device=self._device)
            except errors.CodistillError as error:
                raise CannotRebuild(f"its rows cannot be made anew: {error}") from error
        if self._recomputer is None:
            raise CannotRebuild(
                "rows must be made anew, and nothing is installed that can. Run: pip install 'codistill[extract]'"
            )
        return self._recomputer

    def _read_row(self, source: ShardCheck, position: int) -> npt.NDArray[Any]:
        """Return a row that was found good, checked again: a bad read must not get a checksum that fits it."""
        node, layout = source.place.dataset.array(source.place.array), source.place.layout
        row, crc = np.empty(node.row_shape, node.dtype), np.zeros(CHECKSUM_BYTES, np.uint8)
        with self._storage.open_object(source.place.key) as opened:
            opened.read_into([row.reshape(-1).view(np.uint8), crc], position * layout.stride, layout.stride)
        said = source.trailer
        expected = int.from_bytes(crc.tobytes(), "little") if said is None else int(said.crc32c[position])
        if checksum(row) != expected:
            number = source.place.rows.start + position
            raise CannotRebuild(
                f"row {number} of '{source.place.key}' was good and reads differently now. Run this again"
            )
        return row


def _worth(check: ShardCheck) -> tuple[bool, bool, int]:
    return check.trailer is not None, not any(p.kind in IN_SHARD for p in check.problems), int(check.good.sum())


def repairable(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems that `repair` does something about."""
    kinds = OF_SHARD | OF_SEAL | {Kind.LEFTOVER, Kind.QUARANTINED}
    return [problem for problem in problems if problem.kind in kinds]
