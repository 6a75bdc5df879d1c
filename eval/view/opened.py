"""What the page shows: the cache with its datasets as they were last listed, runs, folders of images, and memory."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import store
from eval.view.changes import state_of
from eval.view.jobs import Jobs
from eval.view.memory import Memory
from eval.view.shapes import StudentRun
from store import errors
from store.cache.metadata import TeacherInfo
from store.common.config import near_miss
from store.format.schema import PIXELS

MEMORY_BYTES = 512 * 2**20  # of decoded rows, pictures and lists
LISTED_TOGETHER = 16
RESULT_BYTES = 1024 * 2**20  # of indices for searching and other results of background work


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Datasets of the cache by name, their parts with the arrays of each, and teachers, without arrays of others."""

    datasets: Mapping[str, store.Dataset]
    parts: Mapping[str, tuple[tuple[store.Dataset, frozenset[str]], ...]]
    teachers: Mapping[str, Mapping[str, TeacherInfo]]


@dataclass(kw_only=True)
class Opened:
    """What one server shows.

    Attributes:
        cache: the cache.
        runs: runs by name.
        images: folder of source images by dataset; the one under the empty name is for all others.
        memory: rows and pictures.
        jobs: work in the background.
        warmed: whether runs are being loaded.
    """

    cache: store.Cache
    runs: Mapping[str, StudentRun] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    memory: Memory = field(default_factory=lambda: Memory(MEMORY_BYTES))
    jobs: Jobs = field(default_factory=lambda: Jobs(RESULT_BYTES))
    warmed: bool = False
    _listing: Listing | None = None
    _state: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def listing(self, *, again: bool = False) -> Listing:
        """Return the datasets and teachers; listed again only if asked for, because storages may be slow at it.

        If the cache is another than it was, what is remembered of it is forgotten.
        """
        with self._lock:
            if self._listing is None or again:
                self._notice_changes()
                datasets = {dataset.name: dataset for dataset in self.cache}
                stored = [part for name in datasets for part in self.cache.parts(name)]
                with ThreadPoolExecutor(LISTED_TOGETHER) as pool:  # many small reads, and storages may be far away
                    arrays = dict(zip((p.name for p in stored), pool.map(_arrays, stored), strict=True))
                    parts = {n: tuple((p, arrays[p.name]) for p in self.cache.parts(n)) for n in datasets}
                    teachers = dict(zip(datasets, pool.map(_teachers, datasets.values(), parts.values()), strict=True))
                self._listing = Listing(datasets=datasets, parts=parts, teachers=teachers)
            return self._listing

    def _notice_changes(self) -> None:
        state = state_of(self.cache)
        if self._state is not None and state != self._state:
            self.cache = store.open(self.cache.location)
            self.memory.clear()
            self.jobs.forget()
        self._state = state

    def dataset(self, name: str) -> store.Dataset:
        """Return a dataset.

        Raises:
            errors.MissingName: there is none of this name.
        """
        datasets = self.listing().datasets
        if name not in datasets:
            raise _missing("dataset", name, datasets)
        return datasets[name]

    def teacher(self, dataset: str, name: str) -> TeacherInfo:
        """Return a teacher of a dataset.

        Raises:
            errors.MissingName: the dataset has no tokens of it.
        """
        self.dataset(dataset)
        teachers = self.listing().teachers[dataset]
        if name not in teachers:
            raise _missing("array", name, teachers, where=f" in '{dataset}'")
        return teachers[name]

    def run(self, name: str) -> StudentRun:
        """Return a run.

        Raises:
            errors.MissingName: none of this name is shown.
        """
        if name not in self.runs:
            raise _missing("run", name, self.runs)
        return self.runs[name]

    def images_folder(self, dataset: store.Dataset) -> Path | None:
        """Return the folder that the image paths of a dataset are relative to; None where it is not at hand."""
        recorded = dataset.source.get("root")
        given = self.images.get(dataset.name) or self.images.get("")
        folder = given or (Path(recorded) if isinstance(recorded, str) and recorded else None)
        return folder if folder is not None and folder.is_dir() else None


def checked_row(dataset: store.Dataset, row: int) -> int:
    """Return a row number of a dataset.

    Raises:
        errors.MissingName: it is out of bounds.
    """
    if not 0 <= row < dataset.rows:
        raise errors.MissingName(f"row {row} is not in '{dataset.name}', which has 0..{dataset.rows - 1}")
    return row


def _arrays(part: store.Dataset) -> frozenset[str]:
    return frozenset({PIXELS, *part.teachers})


def _teachers(dataset: store.Dataset, parts: Sequence[tuple[store.Dataset, frozenset[str]]]) -> dict[str, TeacherInfo]:
    teachers = {}
    for name in sorted(frozenset.union(*(arrays for _, arrays in parts)) - {PIXELS}):
        try:
            teachers[name] = dataset.teacher(name)
        except (errors.UnsupportedFormat, errors.Damaged):  # the overview says so
            continue
    return teachers


def _missing(kind: str, name: str, available: Mapping[str, object], *, where: str = "") -> errors.MissingName:
    listed = ", ".join(available) or "none"
    return errors.MissingName(f"no {kind} '{name[:80]}'{where}{near_miss(name, available)}; available: {listed[:400]}")
