"""Executors make the shards of a job. The one in here runs them in threads of this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

import torch

from backbones.device import torch_threads
from extract.job.calibration import Advance, CalibrationReport
from extract.job.failure_limit import JobWatch
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.worker import Settings, Worker
from store import errors
from store.common.threads import ordered_map
from store.format.schema import PIXELS

SHARDS_ON_CPU = 2  # one computes while the other reads its pixels, or waits for the disk
# A GPU finishes a batch before its tokens are written: two shards compute on it, one is written, one is read.
FEWEST_SHARDS_WITH_GPU, MOST_SHARDS_WITH_GPU = 4, 8


class Executor(Protocol):
    """Makes shards in threads or processes. A context manager, unrelated to `concurrent.futures.Executor`."""

    def calibrate(self, name: str, datasets: Sequence[str], on_advance: Advance) -> CalibrationReport:
        """Fit the code of a teacher if the cache has none, in one task, and record it in these training datasets."""

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """Load a teacher, create its arrays in these datasets, and return the job's batch size for it."""

    def make(self, tasks: Sequence[Task], watch: JobWatch, on_report: Callable[[ShardReport], None]) -> None:
        """Make shards, all of one array name, in any order.

        Args:
            tasks: shards to make.
            watch: receives progress; may stop the work.
            on_report: called with the report of each finished shard.

        Raises:
            errors.JobFailed: too many rows failed, or the machine is at fault (space, permission, device).
        """


class ThreadExecutor:
    """Threads of this process: `settings.threads` of them decode, render and compute, others make one shard each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.processors, thread_name_prefix="codistill-views")
        self._worker = Worker(settings, self._pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def calibrate(self, name: str, datasets: Sequence[str], on_advance: Advance) -> CalibrationReport:
        """See `Executor.calibrate`."""
        return self._worker.calibrate(name, datasets, on_advance)

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """See `Executor.prepare_teacher`."""
        return self._worker.prepare_teacher(name, datasets)

    def make(self, tasks: Sequence[Task], watch: JobWatch, on_report: Callable[[ShardReport], None]) -> None:
        """See `Executor.make`."""
        views = any(task.array == PIXELS for task in tasks)
        count = SHARDS_ON_CPU if views else concurrent_shards(self._settings)
        with (
            torch_threads(1),  # every thread its own image or batch
            ThreadPoolExecutor(count, thread_name_prefix="codistill-shards") as pool,
        ):
            try:
                reports = ordered_map(pool, lambda task: make_shard(self._worker, task, watch), tasks, ahead=count)
                for report in reports:
                    on_report(report)
            except BaseException:
                watch.stop()
                raise


def concurrent_shards(settings: Settings, *, processes: int = 1) -> int:
    """Return how many shards of tokens one process makes at a time; each holds a shard of pixels and a batch of tokens.

    Args:
        settings: settings of the job.
        processes: number of processes that share this machine's CPUs.
    """
    # Not `resolve_device`: it would open the GPU in a process that only submits shards.
    gpu = torch.cuda.is_available() if settings.device == "auto" else settings.device.startswith("cuda")
    if not gpu:
        return SHARDS_ON_CPU
    return max(FEWEST_SHARDS_WITH_GPU, min(MOST_SHARDS_WITH_GPU, settings.processors // processes // 2))


def make_shard(worker: Worker, task: Task, watch: JobWatch) -> ShardReport:
    """Make one shard; an error of the machine is raised with the shard's name.

    Raises:
        errors.JobFailed: no space, no permission, a device error...
    """
    try:
        return worker.make(task, watch)
    except OSError as error:  # also errors.MissingFile, for a source that has disappeared
        raise shard_failed_error(task, error) from error


def shard_failed_error(task: Task, error: BaseException) -> errors.JobFailed:
    """Return the error for a shard that could not be made through a fault of the machine, not of an image."""
    return errors.JobFailed(
        f"shard {task.shard} of '{task.dataset}/{task.array}' could not be made: {error}. Everything published before "
        "is whole. Correct the cause (space, permission, mount), then run the same command again"
    )
