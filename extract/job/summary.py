"""Summary of a job: a table and sentences for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from extract.job.calibration import CalibrationReport
from extract.job.tasks import ArrayState
from store.common import atomic
from store.common.text import human_duration


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """Figures of one stage of a job.

    Attributes:
        stage: "index", "views", "calibrate", "features/<teacher>" or "seal".
        seconds: wall time.
        rows: rows made by this job, failed ones included.
        failed: failed rows among them.
        already_rows: rows made by earlier jobs.
        stored_bytes: bytes of the rows that this job stored.
        reasons: number of failed rows by kind of reason.
        noted: number of rows that were made although something is wrong with their image, by what is wrong.
    """

    stage: str
    seconds: float
    rows: int = 0
    failed: int = 0
    already_rows: int = 0
    stored_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return all figures, and the rates."""
        return vars(self) | {"rows_per_second": self.rows_per_second, "bytes_per_second": self.bytes_per_second}

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.stored_bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Figures of a whole job.

    Attributes:
        cache: location of the cache.
        stages: reports of the stages, in the order run.
        arrays: state of the job's part of each array.
        bytes_per_row: bytes of a row by array: `pixels` and teachers.
        problem: why the job stopped early; None if it did not.
        failed: array -> number of failed rows of the job's datasets by kind of reason, those of earlier jobs included;
            known once they are sealed.
        codes: codes of the teachers that have a ratio.
        random_note: warning about teachers with random weights; empty without any.
    """

    cache: str
    stages: Sequence[StageReport]
    arrays: Sequence[ArrayState]
    bytes_per_row: dict[str, int]
    problem: str | None = None
    failed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    codes: Sequence[CalibrationReport] = ()
    random_note: str = ""

    @property
    def missing_rows(self) -> int:
        return sum(state.missing_rows for state in self.arrays)

    @property
    def complete(self) -> bool:
        """True if the job ran to its end and nothing of its part is missing."""
        return self.problem is None and self.missing_rows == 0


def table_of(report: RunReport) -> Table:
    """Return the table of the stages of a job."""
    table = Table(title=f"extraction into {report.cache}", title_justify="left")
    for name in ("stage", "rows", "already there", "failed", "time", "rows/s", "MB/s"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in report.stages:
        table.add_row(
            stage.stage,
            f"{stage.rows:,}",
            f"{stage.already_rows:,}",
            f"{stage.failed:,}",
            human_duration(stage.seconds),
            f"{stage.rows_per_second:,.1f}" if stage.rows else "",
            f"{stage.bytes_per_second / 1e6:,.1f}" if stage.stored_bytes else "",
        )
    return table


def sentences_of(report: RunReport) -> list[str]:
    """Sentences below the table: reasons of failed rows, bytes per row, and what is missing."""
    sentences = []
    for stage in report.stages:
        if stage.reasons:
            sentences.append(f"failed in {stage.stage}: {_kinds(stage.reasons)}")
        if stage.noted:
            sentences.append(f"noted in {stage.stage}, rows that are there: {_kinds(stage.noted)}")
    if report.bytes_per_row:
        sizes = ", ".join(f"{array} {size:,}" for array, size in report.bytes_per_row.items())
        sentences.append(f"bytes per row: {sizes}; {sum(report.bytes_per_row.values()):,} in all")
    if report.random_note:
        sentences.append(f"warning: {report.random_note}")
    for state in report.arrays:
        if state.missing:
            shards = f"{len(state.missing)} of {state.shards} shards"
            sentences.append(f"missing: {shards} of '{state.dataset}/{state.array}' ({state.missing_rows:,} rows)")
    if report.complete:
        sentences.append(f"complete: nothing is missing{_failed_rows(report)}")
    return sentences


def _failed_rows(report: RunReport) -> str:
    """Return how many rows have failed, by this job or earlier ones, and the command that lists them."""
    failed = dict(report.failed)
    if not failed:  # not sealed: those of this job are known
        failed = {stage.stage: stage.reasons for stage in report.stages if stage.reasons}
    if not failed:
        return ""
    arrays = [f"{sum(reasons.values()):,} of {array} ({_kinds(reasons)})" for array, reasons in failed.items()]
    return f"; failed rows: {', '.join(arrays)}. See them: codistill store failures {report.cache}"


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))


def write_summary(path: Path, report: RunReport) -> None:
    """Write a job's summary as JSON, whole or not at all.

    A stage that had nothing left to do keeps the figures of an earlier summary at `path`, so that another run of the
    same job leaves the measured rates.
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
        "codes": [code.as_json() for code in report.codes],
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
    atomic.write_text(path, json.dumps(content, indent=2) + "\n")
