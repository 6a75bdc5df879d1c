"""Who does the work of a job: here, threads of this process."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import torch

from extract.job.failure_limit import JobWatch
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.worker import Settings, Worker
from store import errors
from store.common.threads import ordered_map
from store.format.schema import PIXELS

SHARDS_UNDER_WAY = 2  # one computes while the other reads its pixels, or waits for the disk
# Beside a GPU, which is done with a batch before its tokens are written: two are on it, one is written, one is read.
LEAST_SHARDS_BESIDE_GPU, MOST_SHARDS_BESIDE_GPU = 4, 8


class Executor(Protocol):
    """Makes shards somewhere; a context manager."""

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """Load a teacher, create its arrays and return the job's batch size for it."""

    def make(self, tasks: Sequence[Task], watch: JobWatch, on_report: Callable[[ShardReport], None]) -> None:
        """Make all of these shards, which belong to one array name, and report each.

        Raises:
            errors.JobFailed: too much failed, or the machine does not allow to go on.
        """


class ThreadExecutor:
    """Threads of this process: `settings.threads` decode and draw, some more make a shard each (`shards_under_way`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.processors, thread_name_prefix="codistill-views")
        self._workshop = Worker(settings, self._pool)

    def __enter__(self) -> "ThreadExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """See `Executor.prepare_teacher`."""
        return self._workshop.prepare_teacher(name, datasets)

    def make(self, tasks: Sequence[Task], watch: JobWatch, on_report: Callable[[ShardReport], None]) -> None:
        """See `Executor.make`."""
        views = any(task.array == PIXELS for task in tasks)
        count = SHARDS_UNDER_WAY if views else shards_under_way(self._settings)
        with (
            torch_threads(1 if views else None),
            ThreadPoolExecutor(count, thread_name_prefix="codistill-shards") as shards,
        ):
            try:
                made = ordered_map(shards, lambda task: make(self._workshop, task, watch), tasks, ahead=count)
                for report in made:
                    on_report(report)
            except BaseException:
                watch.stop()
                raise


def shards_under_way(settings: Settings, *, processes: int = 1) -> int:
    """How many shards of tokens one process makes at a time: memory for each is a shard of pixels and a batch.

    Args:
        settings: of the job.
        processes: that share this machine's processors.
    """
    # Not `resolve_device`: it would open the GPU in a process that only hands out shards.
    gpu = torch.cuda.is_available() if settings.device == "auto" else settings.device.startswith("cuda")
    if not gpu:
        return SHARDS_UNDER_WAY
    return max(LEAST_SHARDS_BESIDE_GPU, min(MOST_SHARDS_BESIDE_GPU, settings.processors // processes // 2))


def make(workshop: Worker, task: Task, watch: JobWatch) -> ShardReport:
    """Make one shard, telling trouble of the machine with the shard's name.

    Raises:
        errors.JobFailed: no space, no permission, a device error...
    """
    try:
        return workshop.make(task, watch)
    except OSError as error:  # also errors.MissingFile, of a source that has gone
        raise shard_failed_error(task, error) from error


def shard_failed_error(task: Task, error: BaseException) -> errors.JobFailed:
    """What to tell where the machine, not an image, kept a shard from being made."""
    return errors.JobFailed(
        f"shard {task.shard} of '{task.dataset}/{task.array}' could not be made: {error}. Everything published before "
        "is whole. Correct the cause (space, permission, mount), then run the same command again"
    )


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Threads inside one torch operation: one where many operations run side by side. None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
