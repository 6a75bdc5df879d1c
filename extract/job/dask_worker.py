"""What runs on a Dask worker: one workshop for its whole life, and the shards it is asked for."""

import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from distributed import Worker as DaskWorker
from distributed import WorkerPlugin, get_worker

from extract.job.failure_limit import FailureLimit, Stopped
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.worker import Settings, Worker
from store import errors
from store.format.schema import PIXELS


@dataclass(frozen=True, kw_only=True)
class RemoteError:
    """An error that another try would meet again; errors themselves do not all survive the way between processes."""

    message: str


@dataclass(frozen=True, kw_only=True)
class FailureCounts:
    """The failure limit of a job, and its counts when a shard was handed out."""

    limit: FailureLimit
    rows: int
    failed: int


class WorkshopPlugin(WorkerPlugin):  # type: ignore[misc]
    """Gives a worker its workshop.

    Args:
        settings: of the job.
        neighbours: whether workers are processes of the job's own machine, named 0, 1, ...: they share its GPUs, and
            Ctrl-C reaches them too, which they leave to their crew.
    """

    def __init__(self, settings: Settings, *, neighbours: bool) -> None:
        self._settings = settings
        self._neighbours = neighbours

    def setup(self, worker: DaskWorker) -> None:
        """Called by Dask when the worker starts."""
        settings = self._settings
        if self._neighbours:
            settings = settings.for_neighbour(int(worker.name))
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._pool = ThreadPoolExecutor(settings.processors, thread_name_prefix="codistill-views")
        self._workshop = Worker(settings, self._pool)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.under_way = 0

    def teardown(self, worker: DaskWorker) -> None:
        """Called by Dask when the worker ends."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Give up the shards under way at their next row."""
        self._stopped.set()

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int | RemoteError:
        """See `Worker.prepare_teacher`."""
        try:
            return self._workshop.prepare_teacher(name, datasets)
        except errors.CodistillError as error:
            return RemoteError(message=str(error))

    def make(self, task: Task, tally: FailureCounts) -> ShardReport | RemoteError:
        """See `Worker.make`. Raises OSError and what libraries raise, for another try."""
        torch.set_num_threads(1 if task.array == PIXELS else self._workshop.settings.processors)
        with self._lock:
            self.under_way += 1
        try:
            return self._workshop.make(task, _WorkerWatch(tally, self._stopped))
        except OSError:
            raise  # another machine may have what this one lacks
        except errors.CodistillError as error:
            return RemoteError(message=str(error))
        finally:
            with self._lock:
                self.under_way -= 1


class _WorkerWatch:
    """Watches a shard far from the job's counts."""

    def __init__(self, tally: FailureCounts, stopped: threading.Event) -> None:
        self._tally = tally
        self._stopped = stopped

    def advance(self, *, rows: int, failed: int) -> None:
        """See `Watch.advance`."""
        if self._stopped.is_set():
            raise Stopped("the job was stopped; this shard is discarded")

    def admit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """See `Watch.admit`."""
        self.advance(rows=rows, failed=len(reasons))
        tally = self._tally
        tally.limit.check(rows=tally.rows + rows, failed=tally.failed + len(reasons), reasons=reasons)


def prepare_teacher(crew: str, name: str, datasets: Sequence[str]) -> int | RemoteError:
    """Have this worker load a teacher and create its arrays."""
    return _plugin(crew).prepare_teacher(name, datasets)


def make_shard(crew: str, task: Task, tally: FailureCounts) -> ShardReport | RemoteError:
    """Have this worker make a shard."""
    return _plugin(crew).make(task, tally)


def stop(crew: str, dask_worker: DaskWorker) -> None:
    """Have this worker give up what it makes."""
    dask_worker.plugins[crew].stop()


def under_way(crew: str, dask_worker: DaskWorker) -> int:
    """How many shards this worker is making."""
    return int(dask_worker.plugins[crew].under_way)


def _plugin(crew: str) -> WorkshopPlugin:
    plugin: WorkshopPlugin = get_worker().plugins[crew]
    return plugin
