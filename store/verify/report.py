"""What `codistill store verify` does and how it tells people of it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.cache.cache import open as open_cache
from store.common.text import human_bytes
from store.storage.base import Location
from store.verify.repair import RepairReport, repair, repairable
from store.verify.verify import VerifyReport, verify

LISTED = 50

Say = Callable[[str], None]
Confirm = Callable[[int], bool]  # takes the number of problems


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it: whether anything is wrong at the end, and everything as plain JSON."""

    wrong: bool
    document: dict[str, Any]


def check(location: Location, *, quick: bool, progress: bool, say: Say) -> tuple[VerifyReport, Outcome]:
    """Verify a cache and say what was found."""
    report = verify(location, quick=quick, progress=progress)
    for line in report_lines(report):
        say(line)
    return report, Outcome(wrong=not report.ok, document={"found": report.as_json()})


def check_and_repair(
    location: Location,
    *,
    quick: bool,
    confirm: Confirm,
    catalogue: Path | None,
    device: str,
    progress: bool,
    say: Say,
) -> Outcome:
    """Verify a cache, repair it if `confirm` agrees, and look again at what shards say of themselves.

    Raises:
        errors.MissingCache: there is none.
    """
    report, before = check(location, quick=quick, progress=progress, say=say)
    ours = repairable(report.problems)
    if not ours or not confirm(len(ours)):
        return before
    done = repair(open_cache(location), report, catalogue=catalogue, device=device, progress=progress)
    for line in repair_lines(done):
        say(line)
    # Rebuilt shards were read again in full; this is for what holds between shards and tables.
    _, after = check(location, quick=True, progress=progress, say=say)
    document = {**before.document, "repair": done.as_json(), "after": after.document["found"]}
    return Outcome(wrong=bool(done.left) or after.wrong, document=document)


def report_lines(report: VerifyReport) -> Iterator[str]:
    """Yield the lines for a check: problems, counts by kind, what to do."""
    for problem in report.problems[:LISTED]:
        yield f"{problem.kind.value}: {problem}"
    if len(report.problems) > LISTED:
        yield f"... and {len(report.problems) - LISTED} more (--json lists all)"
    yield from (f"note: {note}" for note in report.notes)
    read = "trailers of" if report.quick else "all of"
    checked = f"{read} {report.shards:,} shards ({report.rows:,} rows, {human_bytes(report.stored_bytes)})"
    if report.ok:
        yield f"ok: {checked}"
        return
    kinds = Counter(problem.kind.value for problem in report.problems)
    yield f"problems: {', '.join(f'{count} x {kind}' for kind, count in sorted(kinds.items()))}. Checked {checked}"


def advice(report: VerifyReport) -> str:
    """Return what to do about the problems."""
    ours = len(repairable(report.problems))
    if not ours:
        return "none of these can be repaired here: docs/verify.md says what to do about each kind"
    return f"{ours} can be repaired. Run: codistill store verify {report.location} --repair"


def repair_lines(done: RepairReport) -> Iterator[str]:
    """Yield the lines for a repair."""
    yield from (f"repaired shard {shard} of '{dataset}/{array}'" for dataset, array, shard in done.repaired)
    yield from (f"removed '{key}'" for key in done.removed)
    if done.sealed:
        yield "sealed again"
    yield from (f"note: {note}" for note in done.notes)
    yield from (str(left) for left in done.left)
