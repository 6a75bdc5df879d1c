"""A whole job: open its cache, make what is left stage by stage, and report."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TextIO

from extract.job import preflight
from extract.job.calibration import CalibrationReport, coded_datasets
from extract.job.executor import Executor
from extract.job.failure_limit import JobWatch
from extract.job.folder_sizes import many_shards_note
from extract.job.index import index
from extract.job.progress import CalibrationDisplay, EventLog, StageDisplay
from extract.job.selection import Selection, existing_cache, require_datasets
from extract.job.stages import ShardReport
from extract.job.summary import RunReport, StageReport
from extract.job.tasks import ArrayState, Stage, array_states
from extract.sources import open_source
from extract.views.stored_bytes import pixels_row_bytes
from store import Cache, errors
from store import create as create_cache
from store import open as open_cache
from store.common.text import human_bytes, random_weights_note
from store.format.schema import PIXELS
from store.sealing.seal import seal


def open_for(selection: Selection) -> Cache:
    """Open the cache of a checked job; the stage index may create it.

    Raises:
        errors.Conflict: the cache was made by another recipe.
        errors.MissingCache: there is no cache, and the job does not run the stage index.
        errors.OutputExists: something else than a cache is there.
    """
    job = selection.job
    if "index" not in job.stages:
        return open_cache(job.cache)
    try:
        return create_cache(job.cache, job.catalogue.recipe.stored())
    except OSError as error:
        if isinstance(error, errors.CodistillError):
            raise
        raise errors.InvalidInput(f"cache '{job.cache}' cannot be written: {error}") from error


def delete(selection: Selection) -> list[str]:
    """Delete what a job would make, so that it is recomputed: whole datasets, or without index and views only tokens.

    Returns:
        Names of the deleted datasets, or `dataset/teacher` of the deleted tokens.

    Raises:
        errors.InvalidInput: the job names no datasets; all of them are never deleted by default.
    """
    job = selection.job
    require_datasets(job)
    cache = existing_cache(job.cache)
    deleted = []
    for name in [name for name in selection.datasets if cache is not None and name in cache.datasets]:
        assert cache is not None
        if {"index", "views"} & set(job.stages):
            cache.delete_dataset(name)
            deleted.append(name)
            continue
        for teacher in [teacher for teacher in selection.teachers if teacher in cache[name].teachers]:
            cache[name].delete_teacher(teacher)
            deleted.append(f"{name}/{teacher}")
    return deleted


def run(selection: Selection, cache: Cache, executor: Executor, *, stream: TextIO) -> RunReport:
    """Make what is left of a job.

    Args:
        selection: checked job, from `selection.check`.
        cache: cache of the job, from `open_for`.
        executor: makes the shards.
        stream: stream for progress and notes.

    Returns:
        Figures of the job; `.problem` tells why it stopped early.

    Raises:
        errors.CodistillError: a conflict with what is stored, a teacher that cannot be loaded, damaged shards.
        KeyboardInterrupt: unfinished shards are discarded, all others are stored.
    """
    with EventLog(selection.job.events) as log:
        runner = _JobRunner(selection, cache, executor, log=log, stream=stream)
        try:
            return runner.run()
        except KeyboardInterrupt:
            log.write("interrupted")
            raise


class _JobRunner:
    def __init__(
        self, selection: Selection, cache: Cache, executor: Executor, *, log: EventLog, stream: TextIO
    ) -> None:
        self._job, self._cache = selection.job, cache
        self._datasets, self._teachers = selection.datasets, selection.teachers
        self._notes = selection.notes
        entries = selection.teacher_entries
        self._random_note = random_weights_note(entry.name for entry in entries if entry.random_seed is not None)
        self._executor, self._log, self._stream = executor, log, stream
        self._stage_reports: list[StageReport] = []
        self._failed: dict[str, Counter[str]] = {}
        self._codes: list[CalibrationReport] = []

    def run(self) -> RunReport:
        self._log.write(
            "start", cache=self._cache.location, datasets=list(self._datasets), teachers=list(self._teachers)
        )
        steps: dict[Stage, Callable[[], None]] = {
            "index": self._index,
            "views": self._views,
            "calibrate": self._calibrate,
            "features": self._features,
            "seal": self._seal,
        }
        problem = None
        for note in self._notes:
            self._say(note, ())
        if self._random_note:
            self._say(f"warning: {self._random_note}", ())
        try:
            for stage, step in steps.items():
                if stage in self._job.stages:
                    step()
        except errors.JobFailed as error:
            problem = str(error)
        except OSError as error:
            problem = (
                f"{error}. Everything published before is whole. Correct the cause, then run the same command again"
            )
        report = self._report(problem)
        self._log.write("end", complete=report.complete, missing_rows=report.missing_rows, problem=problem)
        return report

    def _index(self) -> None:
        started, images = time.perf_counter(), 0
        for name in self._datasets:
            entry = self._job.catalogue.dataset_named(name)
            before = len(self._parts_of(name))
            dataset, notes = index(self._cache, entry, open_source(entry), append=self._job.append)
            parts = len(self._parts_of(name))
            lacking = sorted(set(dataset.teachers) - set(self._teachers)) if 0 < before < parts else []
            if lacking:
                notes = (*notes, f"the new rows have no tokens of {', '.join(lacking)}, which this job does not run")
            images += dataset.images
            note = many_shards_note({name: dataset.rows}, shard_rows=dataset.shard_rows, image_size=dataset.image_size)
            told = [*notes, *([] if note is None or self._notes else [note])]
            joined = f" in {parts} parts" if parts > 1 else ""
            self._say(f"index: '{name}' has {dataset.images:,} images, {dataset.rows:,} rows{joined}", told)
        self._finish("index", started, rows=images)

    def _views(self) -> None:
        self._make("views", self._states([PIXELS]))

    def _calibrate(self) -> None:
        entries = [self._job.catalogue.teacher_named(name) for name in self._teachers]
        coded = {entry.name: coded_datasets(self._cache, entry, self._stored) for entry in entries}
        if not any(coded.values()):
            return
        if self._job.part.index:
            self._say("calibrate: left to part 0", ())
            return
        started = time.perf_counter()
        for teacher, datasets in ((name, names) for name, names in coded.items() if names):
            with CalibrationDisplay(f"calibrate/{teacher}", stream=self._stream) as display:
                report = self._executor.calibrate(teacher, datasets, display.advance)
            self._codes.append(report)
            self._say(report.sentence, report.notes)
            self._log.write("code", **report.as_json())
        self._finish("calibrate", started)

    def _features(self) -> None:
        for teacher in self._teachers:
            batch_size = self._executor.prepare_teacher(teacher, self._stored)
            ready = []
            for state in self._states([teacher]):
                with_pixels = self._cache.part(state.dataset).present(PIXELS)
                tasks = [replace(task, batch_size=batch_size) for task in state.missing if task.shard in with_pixels]
                if len(tasks) < len(state.missing):
                    without = len(state.missing) - len(tasks)
                    self._say(f"features/{teacher}: {without} shards of '{state.dataset}' have no pixels yet", ())
                ready.append(replace(state, missing=tuple(tasks)))
            self._make(f"features/{teacher}", ready)

    def _seal(self) -> None:
        if self._job.part.count > 1:
            self._say(f"seal: left to `codistill store seal {self._cache.location}`, after the last part", ())
            return
        started = time.perf_counter()
        report = seal(self._cache)
        for array in report.arrays:
            if array.dataset in self._stored and array.array in (PIXELS, *self._teachers) and array.failed:
                self._failed.setdefault(array.array, Counter()).update(array.reasons)
        self._say("seal: done", report.warnings)
        self._finish("seal", started)

    def _make(self, stage: str, states: Sequence[ArrayState]) -> None:
        tasks = [task for state in states for task in state.missing]
        rows = sum(state.rows for state in states)
        rows_left = sum(task.rows for task in tasks)
        reports: list[ShardReport] = []
        started = time.perf_counter()
        try:
            if tasks:
                sizes = {
                    state.dataset: self._row_bytes(state.dataset, state.array) for state in states if state.missing
                }
                bytes_left = sum(task.rows * sizes[task.dataset] for task in tasks)
                row_bytes = bytes_left / rows_left
                self._warn_of_space(stage, bytes_left)
                name, done = f"[{self._position(stage)}] {stage}", rows - rows_left
                with StageDisplay(name, rows=rows, done=done, row_bytes=row_bytes, stream=self._stream) as display:
                    watch = JobWatch(self._job.limit, display.advance)
                    self._executor.make(tasks, watch, self._recorder(stage, reports))
        finally:
            reasons, noted = Counter[str](), Counter[str]()
            for report in reports:
                reasons.update(report.reasons)
                noted.update({note: len(note_rows) for note, note_rows in report.noted.items()})
            self._finish(
                stage,
                started,
                rows=sum(report.rows for report in reports),
                failed=sum(report.failed for report in reports),
                already_rows=rows - rows_left,
                stored_bytes=sum(report.stored_bytes for report in reports),
                reasons=dict(reasons),
                noted=dict(noted),
            )

    def _position(self, stage: str) -> str:
        """Position of a stage among the job's longer ones, for example `2/4`."""
        features = [f"features/{teacher}" for teacher in self._teachers if "features" in self._job.stages]
        longer = ["views"] * ("views" in self._job.stages) + features
        return f"{longer.index(stage) + 1}/{len(longer)}"

    def _warn_of_space(self, stage: str, bytes_left: int) -> None:
        free = preflight.free_bytes(self._job.cache)
        if free is not None and free < bytes_left:
            self._say(f"{stage}: {human_bytes(bytes_left)} to be written, {human_bytes(free)} free at the target", ())

    def _recorder(self, stage: str, reports: list[ShardReport]) -> Callable[[ShardReport], None]:
        def record(report: ShardReport) -> None:
            reports.append(report)
            self._log.write(
                "shard", stage=stage, **vars(report) | {"reasons": dict(report.reasons), "noted": dict(report.noted)}
            )

        return record

    def _finish(self, stage: str, started: float, **figures: Any) -> None:
        report = StageReport(stage=stage, seconds=time.perf_counter() - started, **figures)
        self._stage_reports.append(report)
        self._log.write("stage", **report.as_json())

    def _states(self, arrays: Sequence[str]) -> list[ArrayState]:
        return list(array_states(self._cache, self._stored, arrays, self._job.part))

    @property
    def _stored(self) -> list[str]:
        """Names under which the datasets of the job and their parts are stored."""
        return [name for dataset in self._datasets for name in self._parts_of(dataset)]

    def _parts_of(self, dataset: str) -> list[str]:
        return [part.name for part in self._cache.parts(dataset)] if dataset in self._cache.datasets else []

    def _report(self, problem: str | None) -> RunReport:
        arrays = [PIXELS] if "views" in self._job.stages else []
        arrays += self._teachers if "features" in self._job.stages else []
        states = self._states(arrays) if set(self._datasets) <= set(self._cache.datasets) else []
        sizes = {}
        for array in arrays:
            stored = self._stored if states else []
            holders = [d for d in stored if array == PIXELS or array in self._cache.part(d).teachers]
            if holders:
                training = [name for name in holders if self._cache.part(name).split == "train"]
                sizes[array] = self._row_bytes((training or holders)[0], array)
        return RunReport(
            cache=self._cache.location,
            stages=self._stage_reports,
            arrays=states,
            bytes_per_row=sizes,
            problem=problem,
            failed=self._failed,
            codes=self._codes,
            random_note=self._random_note,
        )

    def _row_bytes(self, dataset: str, array: str) -> int:
        """Bytes of a row in the cache, its checksum included; of JPEG pixels an estimate until there are some."""
        stored = self._cache.part(dataset).stored_row_bytes(array)
        recipe = self._job.catalogue.recipe
        return stored or (pixels_row_bytes(recipe.image_size, recipe.pixels) if array == PIXELS else 0)

    def _say(self, sentence: str, notes: Iterable[str]) -> None:
        self._stream.write("\n    ".join([sentence, *notes]) + "\n")
        self._log.write("note", text=sentence, notes=list(notes))
