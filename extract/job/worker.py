"""Worker: makes any shard of a job, with the open cache, the image sources and the loaded teacher of one process."""

import importlib.metadata
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import PIL
import PIL.features
import torch

from backbones.device import resolve_device, torch_threads
from extract.catalogue import Catalogue, DatasetEntry
from extract.job import stages
from extract.job.calibration import Advance, CalibrationReport, calibrate, coded_datasets, ignore
from extract.job.failure_limit import Watch
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.teacher_check import description
from extract.sources import open_source
from extract.teachers.base import Teacher
from extract.teachers.batching import Batching
from extract.teachers.encoding import TokenEncoder, token_encoder
from extract.teachers.loading import load_teacher
from extract.teachers.runner import GPU_BATCH, TeacherRunner, find_batch_size
from extract.views.maker import ViewMaker
from store import Cache, Dataset, errors
from store import open as open_cache
from store.cache.shared_code import stored_code
from store.format.schema import PIXELS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a job that every process of it needs.

    Attributes:
        location: location of the cache.
        catalogue: catalogue of the extraction.
        device: "cpu", "cuda", "cuda:1" ..., or "auto".
        batch_size: rows that go through a teacher together; None finds a size that fits twice (two may be on a GPU).
        threads: threads of a process that decode, and on a CPU run teachers; None for one per CPU that it may use.
    """

    location: str
    catalogue: Catalogue
    device: str
    batch_size: int | None
    threads: int | None

    @property
    def processors(self) -> int:
        """Number of these threads on this machine."""
        return self.threads or len(os.sched_getaffinity(0))

    def for_local_process(self, number: int) -> "Settings":
        """Return the settings of the `number`-th of several processes on one machine, which take its GPUs in turn."""
        gpus = torch.cuda.device_count() if self.device in ("auto", "cuda") else 0
        return replace(self, device=f"cuda:{number % gpus}") if gpus > 1 else self


class Worker:
    """Makes shards of a job. Safe to use from several threads; keeps one teacher loaded at a time.

    Args:
        settings: settings of the job.
        pool: threads that decode and render views, and on a CPU run teachers.
    """

    def __init__(self, settings: Settings, pool: ThreadPoolExecutor) -> None:
        self.settings = settings
        self._pool = pool
        self._lock = threading.Lock()
        self._makers: dict[str, ViewMaker] = {}
        self._runner: TeacherRunner | None = None
        self._encoders: dict[str, TokenEncoder] = {}  # by digest, of this teacher

    @cached_property
    def cache(self) -> Cache:
        return open_cache(self.settings.location)

    def make(self, task: Task, watch: Watch) -> ShardReport:
        """Make one shard; raises as the functions of `extract.job.stages`."""
        dataset = self.cache.part(task.dataset)
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
        runner = self.runner(task.array)
        encoder = self.encoder(dataset, runner)
        cpu = runner.teacher.device.type != "cuda"
        return stages.features_shard(
            dataset,
            task.shard,
            runner=runner,
            batching=Batching.for_job(task.batch_size, shard_rows=dataset.shard_rows, cpu=cpu),
            encoder=encoder,
            pool=self._pool if cpu else None,
            ahead=self.settings.processors + 1,
            watch=watch,
        )

    def calibrate(self, name: str, datasets: Sequence[str], on_advance: Advance = ignore) -> CalibrationReport:
        """Fit the code of a teacher if this cache has none, and record it; see `extract.job.calibration.calibrate`."""
        runner, entry = self.runner(name), self.settings.catalogue.teacher_named(name)
        with torch_threads(1):
            return calibrate(
                self.cache,
                entry,
                datasets,
                runner=runner,
                pool=self._pool if runner.teacher.device.type != "cuda" else None,
                describe=lambda dataset: description(entry, runner.teacher, image_size=dataset.image_size),
                on_advance=on_advance,
            )

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """Load a teacher and create its arrays; arrays that exist must agree.

        Returns:
            Batch size for this job.

        Raises:
            errors.Conflict: an array of this name was made by another teacher, or is stored in another form.
            errors.MissingFile, errors.InvalidInput: the weights cannot be used, or no code was fitted yet.
        """
        runner, entry = self.runner(name), self.settings.catalogue.teacher_named(name)
        coded = coded_datasets(self.cache, entry, datasets)
        code = stored_code(self.cache, name) if coded else None
        if coded and code is None:
            raise errors.InvalidInput(
                f"teacher '{name}' has ratio {entry.ratio:g} and no code in {self.settings.location} yet. Run once: "
                f"codistill extract calibrate CATALOGUE.toml --cache {self.settings.location} --teachers {name}"
            )
        for dataset in (self.cache.part(dataset_name) for dataset_name in datasets):
            described = description(entry, runner.teacher, image_size=dataset.image_size)
            dataset.create_teacher(name, **described, code=code if dataset.name in coded else None)
        return self._batch_size(runner.teacher)

    def runner(self, name: str) -> TeacherRunner:
        """Return the runner of this teacher; another teacher is unloaded first."""
        with self._lock:
            if self._runner is None or self._runner.name != name:
                self._runner, self._encoders = None, {}
                entry = self.settings.catalogue.teacher_named(name)
                teacher = load_teacher(entry, device=resolve_device(self.settings.device))
                self._runner = TeacherRunner(name, teacher, provenance={"machine": instruction_set()})
            return self._runner

    def encoder(self, dataset: Dataset, runner: TeacherRunner) -> TokenEncoder | None:
        """Return the encoder of a dataset's tokens; None where they are float16. One code serves all datasets."""
        spec = dataset.teacher(runner.name).code
        if spec is None:
            return None
        with self._lock:
            if spec.digest not in self._encoders:
                self._encoders = {spec.digest: token_encoder(dataset.code(runner.name), runner.teacher.device)}
            return self._encoders[spec.digest]

    def _batch_size(self, teacher: Teacher) -> int:
        """Return the batch size of the settings, else one that keeps the device busy and fits a GPU twice."""
        if self.settings.batch_size is not None:
            return self.settings.batch_size
        recipe = self.settings.catalogue.recipe
        limit = min(recipe.shard_rows, GPU_BATCH)
        if teacher.device.type != "cuda":
            return find_batch_size(teacher, recipe.image_size, limit=limit)
        return max(1, find_batch_size(teacher, recipe.image_size, limit=2 * limit) // 2)

    def entry_of(self, dataset: str) -> DatasetEntry:
        """Return the catalogue's entry of a dataset. Raises errors.MissingName."""
        return self.settings.catalogue.dataset_named(dataset)

    def view_maker(self, name: str) -> ViewMaker:
        """Return the view maker of a dataset or part by its stored name; its image list is read once."""
        with self._lock:
            if name not in self._makers:
                part = self.cache.part(name)
                entry = self.entry_of(part.whole_name)
                self._makers[name] = ViewMaker(
                    entry=entry,
                    recipe=self.settings.catalogue.recipe,
                    images=part.image_list().combine_chunks(),
                    source=open_source(entry),
                    stored_name=name,
                )
            return self._makers[name]

    @cached_property
    def _views_provenance(self) -> dict[str, Any]:
        return views_provenance()


def views_provenance() -> dict[str, Any]:
    """Return what the last bits of pixels may depend on: library versions and the CPU's vector instructions."""
    versions = {
        name: importlib.metadata.version(name) for name in ("codistill", "numpy", "pillow", "torch", "torchvision")
    }
    versions["libjpeg-turbo"] = PIL.features.version("libjpeg_turbo") or "unknown"
    return {"versions": versions, "machine": instruction_set()}


def instruction_set() -> str:
    """Return the CPU's vector instructions that torch uses, for example `AVX512`."""
    return str(torch.backends.cpu.get_cpu_capability())
