"""What a job came to: for people as a table, for programs as JSON."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from extract.job.progress import duration
from extract.job.tasks import ArrayState


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of a job.

    Attributes:
        stage: "index", "views", "features/<teacher>" or "seal".
        rows: made by this job, failed ones included.
        failed: of these.
        already_rows: made by earlier jobs.
        stored_bytes: of the rows that this job stored.
        seconds: wall.
        reasons: failed rows by kind of reason.
    """

    stage: str
    seconds: float
    rows: int = 0
    failed: int = 0
    already_rows: int = 0
    stored_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it, with the rates."""
        return vars(self) | {"rows_per_second": self.rows_per_second, "bytes_per_second": self.bytes_per_second}

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.stored_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A whole job.

    Attributes:
        cache: its location.
        stages: in the order run.
        arrays: how far the job's part of each array is now.
        bytes_per_row: by array: `pixels` and teachers.
        problem: why the job stopped early, None if it did not.
    """

    cache: str
    stages: Sequence[StageReport]
    arrays: Sequence[ArrayState]
    bytes_per_row: dict[str, int]
    problem: str | None = None

    @property
    def missing_rows(self) -> int:
        return sum(state.missing_rows for state in self.arrays)

    @property
    def complete(self) -> bool:
        """Whether the job ran through and nothing of its part is missing."""
        return self.problem is None and self.missing_rows == 0


def table_of(report: RunReport) -> Table:
    """The stages of a job as a table."""
    table = Table(title=f"extraction into {report.cache}", title_justify="left")
    for name in ("stage", "rows", "already there", "failed", "time", "rows/s", "MB/s"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in report.stages:
        table.add_row(
            stage.stage,
            f"{stage.rows:,}",
            f"{stage.already_rows:,}",
            f"{stage.failed:,}",
            duration(stage.seconds),
            f"{stage.rows_per_second:,.1f}" if stage.rows else "",
            f"{stage.bytes_per_second / 1e6:,.1f}" if stage.stored_bytes else "",
        )
    return table


def sentences_of(report: RunReport) -> list[str]:
    """What follows the table: reasons of failed rows, bytes per row, and what is missing."""
    sentences = []
    for stage in report.stages:
        if stage.reasons:
            kinds = ", ".join(f"{count:,} {reason}" for reason, count in sorted(stage.reasons.items()))
            sentences.append(f"failed in {stage.stage}: {kinds}")
    if report.bytes_per_row:
        sizes = ", ".join(f"{array} {size:,}" for array, size in report.bytes_per_row.items())
        sentences.append(f"bytes per row: {sizes}; {sum(report.bytes_per_row.values()):,} in all")
    for state in report.arrays:
        if state.missing:
            shards = f"{len(state.missing)} of {state.shards} shards"
            sentences.append(f"missing: {shards} of '{state.dataset}/{state.array}' ({state.missing_rows:,} rows)")
    if report.complete:
        sentences.append("complete: nothing is missing")
    return sentences


def write_summary(path: Path, report: RunReport) -> None:
    """Write a job's summary as JSON, whole or not at all.

    A stage for which this job found nothing to do keeps the figures of the summary that was there, so that running
    again leaves the measured rates.
    """
    earlier: dict[str, Any] = {}
    if path.exists():
        earlier = {stage["stage"]: stage for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]}
    stages = [stage.as_json() for stage in report.stages]
    content = {
        "cache": report.cache,
        "complete": report.complete,
        "problem": report.problem,
        "stages": [stage if stage["rows"] else earlier.get(stage["stage"], stage) for stage in stages],
        "bytes_per_row": report.bytes_per_row,
        "arrays": [
            {
                "dataset": state.dataset,
                "array": state.array,
                "shards": state.shards,
                "rows": state.rows,
                "missing_shards": [task.shard for task in state.missing],
            }
            for state in report.arrays
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
