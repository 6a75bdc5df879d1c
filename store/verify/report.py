"""Command `codistill store verify`: check, repair on request, and the lines that report both."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.common.text import human_bytes
from store.storage.base import Location
from store.verify.repair import RepairReport, repair, repairable
from store.verify.verify import VerifyReport, verify

LISTED = 50

Say = Callable[[str], None]
Confirm = Callable[[int], bool]  # takes the number of problems


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of the command: whether anything is wrong at the end, and everything as plain JSON."""

    wrong: bool
    document: dict[str, Any]


def check(location: Location, *, quick: bool, progress: bool, say: Say) -> tuple[VerifyReport, Outcome]:
    """Check a cache and print the problems."""
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
    """Check a cache, repair it if `confirm` agrees, and check its trailers and tables again.

    Args:
        location: path or URL of the cache.
        quick: read trailers, not rows.
        confirm: called with the number of problems; returns whether to repair them.
        catalogue: file with the locations of images and weights, for rows that must be recomputed.
        device: device that teachers run on.
        progress: show progress bars.
        say: prints a line.

    Raises:
        errors.MissingCache: there is no cache.
    """
    report, before = check(location, quick=quick, progress=progress, say=say)
    problems = repairable(report.problems)
    if not problems or not confirm(len(problems)):
        return before
    repaired = repair(location, report, catalogue=catalogue, device=device, progress=progress)
    for line in repair_lines(repaired):
        say(line)
    # The repair read rebuilt shards again in full; this checks what holds between shards and tables.
    _, after = check(location, quick=True, progress=progress, say=say)
    document = {**before.document, "repair": repaired.as_json(), "after": after.document["found"]}
    return Outcome(wrong=bool(repaired.left) or after.wrong, document=document)


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
    """Return advice about the problems of a check."""
    count = len(repairable(report.problems))
    if not count:
        return "none of these can be repaired here: docs/verify.md says what to do about each kind"
    return f"a repair acts on {count} of these. Run: codistill store verify {report.location} --repair"


def repair_lines(report: RepairReport) -> Iterator[str]:
    """Yield the lines for a repair."""
    yield from (f"repaired '{key}'" for key in report.documents)
    yield from (f"repaired shard {shard} of '{dataset}/{array}'" for dataset, array, shard in report.repaired)
    yield from (f"removed '{key}'" for key in report.removed)
    if report.sealed:
        yield "sealed again"
    yield from (f"note: {note}" for note in report.notes)
    yield from (str(left) for left in report.left)
