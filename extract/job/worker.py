"""What one process needs to make any shard of a job: open cache, sources, the loaded teacher. Made once a process."""

import importlib.metadata
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import PIL
import PIL.features
import torch

from backbones.device import resolve_device
from extract.catalogue import Catalogue, DatasetEntry
from extract.job import stages
from extract.job.failure_limit import Watch
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.sources import open_source
from extract.teachers.base import Teacher
from extract.teachers.loading import load_teacher
from extract.teachers.runner import TeacherRunner, find_batch_size
from extract.views.maker import ViewMaker
from store import Cache
from store import open as open_cache
from store.format.schema import PIXELS

LARGEST_BATCH = 64  # where ViT-L keeps a large GPU busy


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A job, as every process of it must know it.

    Attributes:
        location: of the cache.
        catalogue: what is extracted.
        device: "cpu", "cuda", "cuda:1" ..., or "auto".
        batch_size: rows that go through a teacher together; None finds one that fits twice (two may be on a GPU).
        threads: of this process that decode and draw views; None for one a processor that it may use.
    """

    location: str
    catalogue: Catalogue
    device: str
    batch_size: int | None
    threads: int | None

    @property
    def processors(self) -> int:
        """`threads`, resolved on the machine where it is asked."""
        return self.threads or len(os.sched_getaffinity(0))

    def for_neighbour(self, number: int) -> "Settings":
        """Of the `number`-th of several processes on one machine: they take its GPUs in turn."""
        gpus = torch.cuda.device_count() if self.device in ("auto", "cuda") else 0
        return replace(self, device=f"cuda:{number % gpus}") if gpus > 1 else self


class Worker:
    """Makes shards of a job. Safe to use from several threads; keeps one teacher loaded at a time."""

    def __init__(self, settings: Settings, pool: Executor) -> None:
        self.settings = settings
        self._pool = pool
        self._lock = threading.Lock()
        self._makers: dict[str, ViewMaker] = {}
        self._lane: TeacherRunner | None = None

    @cached_property
    def cache(self) -> Cache:
        return open_cache(self.settings.location)

    def make(self, task: Task, watch: Watch) -> ShardReport:
        """Make one shard; see `extract.stages` for what it raises."""
        dataset = self.cache[task.dataset]
        if task.array == PIXELS:
            return stages.views_shard(
                dataset,
                task.shard,
                maker=self.view_maker(task.dataset),
                provenance=self._views_provenance,
                pool=self._pool,
                ahead=self.settings.processors + 2,
                watch=watch,
            )
        lane = self.lane(task.array)
        return stages.features_shard(dataset, task.shard, lane=lane, batch_size=task.batch_size, watch=watch)

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """Load a teacher and create its arrays; arrays that exist must agree.

        Returns:
            The batch size for this job.

        Raises:
            errors.Conflict: an array of this name was made by another teacher.
            errors.MissingFile, errors.InvalidInput: the weights cannot be used.
        """
        lane, entry = self.lane(name), self.settings.catalogue.teacher_named(name)
        for dataset_name in datasets:
            dataset = self.cache[dataset_name]
            size = dataset.image_size
            dataset.create_teacher(
                name,
                identity=lane.teacher.identity(size),
                groups=entry.groups,
                patch_grid=lane.teacher.patch_grid(size, size),
                prefix_tokens=lane.teacher.prefix_tokens,
                channels=lane.teacher.channels,
            )
        return self._batch_size(lane.teacher)

    def lane(self, name: str) -> TeacherRunner:
        """The named teacher, loaded; another one is let go first."""
        with self._lock:
            if self._lane is None or self._lane.name != name:
                self._lane = None
                entry = self.settings.catalogue.teacher_named(name)
                teacher = load_teacher(entry, device=resolve_device(self.settings.device))
                self._lane = TeacherRunner(name, teacher, provenance={"machine": instruction_set()})
            return self._lane

    def _batch_size(self, teacher: Teacher) -> int:
        """As asked for; else what keeps the device busy and fits it twice, as two batches may be on a GPU."""
        if self.settings.batch_size is not None:
            return self.settings.batch_size
        recipe = self.settings.catalogue.recipe
        limit = min(recipe.shard_rows, LARGEST_BATCH)
        if teacher.device.type != "cuda":
            return find_batch_size(teacher, recipe.image_size, limit=limit)
        return max(1, find_batch_size(teacher, recipe.image_size, limit=2 * limit) // 2)

    def entry_of(self, dataset: str) -> DatasetEntry:
        """The catalogue's entry of a dataset. Raises errors.MissingName."""
        return self.settings.catalogue.dataset_named(dataset)

    def view_maker(self, name: str) -> ViewMaker:
        """What makes pixels of this dataset, its image list read."""
        with self._lock:
            if name not in self._makers:
                entry = self.entry_of(name)
                self._makers[name] = ViewMaker(
                    entry=entry,
                    recipe=self.settings.catalogue.recipe,
                    images=self.cache[name].image_list().combine_chunks(),
                    source=open_source(entry),
                )
            return self._makers[name]

    @cached_property
    def _views_provenance(self) -> dict[str, Any]:
        return views_provenance()


def views_provenance() -> dict[str, Any]:
    """What pixels may depend on in their last bits: library versions and the processor's vector instructions."""
    versions = {
        name: importlib.metadata.version(name) for name in ("codistill", "numpy", "pillow", "torch", "torchvision")
    }
    versions["libjpeg-turbo"] = PIL.features.version("libjpeg_turbo") or "unknown"
    return {"versions": versions, "machine": instruction_set()}


def instruction_set() -> str:
    """The processor's vector instructions as torch uses them, for example `AVX512`."""
    return str(torch.backends.cpu.get_cpu_capability())
