"""A job as it is asked for, and everything about it that can be checked without torch, a weight file or an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extract.catalogue import Catalogue, DatasetEntry, TeacherEntry, choose_names
from extract.job import preflight
from extract.job.failure_limit import FailureLimit
from extract.job.tasks import STAGES, Part
from store import Cache, errors
from store import open as open_cache
from store.cache.cache import check_creatable


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is asked for.

    Attributes:
        catalogue: whole catalogue.
        cache: location of the cache, a path or URL.
        datasets: dataset names; all if empty.
        teachers: teacher names; all if empty.
        stages: stages to run.
        limit: limit of failed rows.
        part: this job's part of the shards.
        events: file of the event log; None for none.
        append: take in images that were added to the datasets' folders, as further parts.
    """

    catalogue: Catalogue
    cache: str
    datasets: Sequence[str] = ()
    teachers: Sequence[str] = ()
    stages: Sequence[str] = STAGES
    limit: FailureLimit = field(default_factory=lambda: FailureLimit(share=0.01))
    part: Part = field(default_factory=Part)
    events: Path | None = None
    append: bool = False


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A job with the names of its datasets and teachers in catalogue order, and what is known to prevent it.

    Attributes:
        job: job as asked for.
        datasets: dataset names.
        teachers: teacher names.
        teacher_problems: problems with teachers that are known without reading their weights.
        notes: what does not prevent the job, but should be known before it starts.
    """

    job: Job
    datasets: Sequence[str]
    teachers: Sequence[str]
    teacher_problems: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def dataset_entries(self) -> list[DatasetEntry]:
        return [self.job.catalogue.dataset_named(name) for name in self.datasets]

    @property
    def teacher_entries(self) -> list[TeacherEntry]:
        """Entries of the teachers that run; none without the stages calibrate and features."""
        if not {"calibrate", "features"} & set(self.job.stages):
            return []
        return [self.job.catalogue.teacher_named(name) for name in self.teachers]


def check(job: Job, *, overwrite: bool = False) -> Selection:
    """Find the problems of a job that are known at once; writes nothing.

    Problems with teachers alone do not raise here: `teacher_check.check` adds those of their weights and tells all
    together.

    Args:
        job: job as asked for.
        overwrite: whether what the job makes will be deleted first, so that it cannot differ from the catalogue.

    Raises:
        errors.InvalidConfig: unknown names, missing folders, another recipe or other settings than are stored, a
            directory that is no cache; all of them are listed.
        errors.MissingCache: there is no cache, and the job does not run the stage index.
    """
    catalogue = job.catalogue
    datasets, problems = choose_names(job.datasets, [d.name for d in catalogue.dataset], option="--datasets")
    teachers, more = choose_names(job.teachers, [t.name for t in catalogue.teacher], option="--teachers")
    _, unknown_stages = choose_names(job.stages, STAGES, option="--stages")
    problems += more + unknown_stages
    if job.append and overwrite:
        problems.append("--append keeps what is stored and --overwrite deletes it: pass one of them")
    if job.append and "index" not in job.stages:
        problems.append("--append: the stage index takes in new images. Add it to --stages")
    selection = Selection(job=job, datasets=datasets, teachers=teachers)
    weights = preflight.weight_problems(selection.teacher_entries)
    if "index" in job.stages:
        problems += preflight.image_problems(selection.dataset_entries)
    try:
        cache = existing_cache(job.cache)
    except errors.OutputExists as error:
        cache = None
        problems.append(str(error))
    if cache is not None:
        problems += preflight.recipe_problems(cache, catalogue.recipe)
        problems += preflight.stored_problems(cache, _compared(selection, cache, overwrite=overwrite))
    if problems:
        preflight.refuse(problems + weights)
    if cache is None and "index" not in job.stages:
        open_cache(job.cache)  # raises
    notes = [] if cache is not None else preflight.size_notes(selection.dataset_entries, catalogue.recipe)
    return Selection(job=job, datasets=datasets, teachers=teachers, teacher_problems=weights, notes=notes)


def require_datasets(job: Job) -> None:
    """Refuse to delete what a job would make if it names no datasets; all of them are never deleted by default.

    Raises:
        errors.InvalidInput: it names none.
    """
    if not job.datasets:
        raise errors.InvalidInput("--overwrite deletes what is stored. Name the datasets to recompute with --datasets")


def existing_cache(location: str) -> Cache | None:
    """Open the cache at a location; None if there is none and one can be created there.

    Raises:
        errors.OutputExists: something else is there.
    """
    if "://" not in location and Path(location).is_file():
        raise errors.OutputExists(f"cache '{location}' is a file. Choose an empty or new folder")
    try:
        return open_cache(location)
    except errors.MissingCache:
        check_creatable(location)
        return None


def _compared(selection: Selection, cache: Cache, *, overwrite: bool) -> list[DatasetEntry]:
    """Return the datasets that must be as the cache has them: with the stage index also those that it will add."""
    stages = selection.job.stages
    if overwrite and {"index", "views"} & set(stages):
        return []
    if "index" not in stages:
        return selection.dataset_entries
    return [entry for entry in selection.dataset_entries if entry.name in cache.datasets]
