"""The small parts of a job: failure limit, parts, display, summary."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from extract.job.failure_limit import FailureLimit, JobWatch, Stopped
from extract.job.progress import StageDisplay
from extract.job.summary import RunReport, StageReport, sentences_of, write_summary
from extract.job.tasks import ArrayState, Part, Task
from store import errors


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.25", 0.25), ("0", 0), ("100%", 1)])
def test_failure_limit(text: str, share: float) -> None:
    limit = FailureLimit.parse(text)
    assert limit.share == pytest.approx(share)
    limit.check(rows=5000, failed=int(share * 5000), reasons=["x"])
    if share < 1:
        with pytest.raises(errors.JobFailed, match="last reason: empty file: 0 bytes"):
            limit.check(rows=5000, failed=int(share * 5000) + 1, reasons=["a", "empty file: 0 bytes"])


def test_few_failures_stop_no_small_job() -> None:
    FailureLimit.parse("1%").check(rows=12, failed=10, reasons=["x"])
    with pytest.raises(errors.JobFailed):
        FailureLimit.parse("1%").check(rows=12, failed=11, reasons=["x"])


@pytest.mark.parametrize("text", ["", "1/1/1", "a", "-1%", "101%", "2"])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="expected a share"):
        FailureLimit.parse(text)


@pytest.mark.parametrize("text", ["", "1", "1/1", "a/2", "-1/2", "0/0", "1/2/3"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="expected i/n"):
        Part.parse(text)


def test_a_stopped_job_gives_up_its_shards() -> None:
    seen: list[tuple[int, int]] = []
    watch = JobWatch(FailureLimit(share=0.5), lambda rows, failed: seen.append((rows, failed)))
    watch.advance(rows=3, failed=1)
    watch.stop()
    with pytest.raises(Stopped):
        watch.advance(rows=1, failed=0)
    with pytest.raises(Stopped):
        watch.check_failure_limit(rows=1, reasons=[])
    assert seen == [(3, 1)]


def test_log_files_get_lines() -> None:
    now = 0.0
    stream = io.StringIO()
    with StageDisplay("views", rows=300, done=100, row_bytes=1e6, stream=stream, clock=lambda: now) as display:
        now = 1.0
        display.advance(40, 0)
        now = 16.0
        display.advance(40, 2)
        now = 20.0
    first, last = (" ".join(line.split()) for line in stream.getvalue().splitlines())
    assert first == "views 180/300 rows (60 %), 5.0 rows/s, 5.0 MB/s, 2 failed, 24 s left"
    assert last == "views 180/300 rows (60 %), 4.0 rows/s, 4.0 MB/s, 2 failed, 30 s left"


def test_terminals_get_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with StageDisplay("views", rows=4, done=1, row_bytes=1e6, stream=stream) as display:
        display.advance(3, 1)
    assert "1 failed" in stream.getvalue()
    assert "4/4" in stream.getvalue()


def test_the_last_line_tells_of_failed_rows() -> None:
    """Also of those of earlier jobs, when nothing was left to do, as the seal knows them."""
    stage = StageReport(stage="views", seconds=1.0, already_rows=9)
    state = ArrayState(dataset="d", array="pixels", shards=1, rows=9, missing=())
    report = RunReport(cache="c", stages=[stage], arrays=[state], bytes_per_row={})
    assert sentences_of(report) == ["complete: nothing is missing"]
    failed = {"pixels": {"decode": 2}, "t": {"pixels": 2, "overflow": 1}}
    assert sentences_of(replace(report, failed=failed)) == [
        "complete: nothing is missing; failed rows: 2 of pixels (2 decode), 3 of t (1 overflow, 2 pixels). See them: "
        "codistill store failures c"
    ]
    unsealed = replace(report, stages=[replace(stage, rows=9, failed=1, reasons={"decode": 1})])
    assert sentences_of(unsealed)[-1].startswith("complete: nothing is missing; failed rows: 1 of views (1 decode)")


def test_summary_tells_what_is_missing(tmp_path: Path) -> None:
    task = Task(dataset="d", array="t", shard=3, rows=5)
    state = ArrayState(dataset="d", array="t", shards=4, rows=20, missing=(task,))
    stage = StageReport(stage="features/t", seconds=2.0, rows=15, failed=1, stored_bytes=140, reasons={"no": 1})
    report = RunReport(cache="c", stages=[stage], arrays=[state], bytes_per_row={"t": 10})
    assert not report.complete
    assert sentences_of(report) == [
        "failed in features/t: 1 no",
        "bytes per row: t 10; 10 in all",
        "missing: 1 of 4 shards of 'd/t' (5 rows)",
    ]
    write_summary(tmp_path / "s.json", report)
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["arrays"][0]["missing_shards"] == [3]
    assert written["stages"][0]["rows_per_second"] == 7.5
