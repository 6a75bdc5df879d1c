"""Dask side of a job, on the workers: a plugin that holds one `Worker`, and the functions that Dask calls there.

`Worker` is this project's (`extract.job.worker`); Dask's own class is imported as `DaskWorker`.
"""

import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from distributed import Worker as DaskWorker
from distributed import WorkerPlugin, get_worker

from extract.job.calibration import CalibrationReport
from extract.job.failure_limit import FailureLimit, Stopped
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.worker import Settings, Worker
from store import errors


@dataclass(frozen=True, kw_only=True)
class RemoteError:
    """An error that another try would meet again, as text: not every exception survives the way between processes."""

    message: str


@dataclass(frozen=True, kw_only=True)
class FailureCounts:
    """Failure limit of a job, and the job's counts when a shard was submitted.

    Attributes:
        limit: failure limit of the job.
        rows: rows done so far.
        failed: failed rows among them.
    """

    limit: FailureLimit
    rows: int
    failed: int


class ShardWorkerPlugin(WorkerPlugin):  # type: ignore[misc]
    """Dask plugin that gives each Dask worker a `Worker` for one job.

    Args:
        settings: settings of the job.
        local: whether the Dask workers are processes that the job started on its own machine, named 0, 1, ...: they
            share its GPUs and ignore Ctrl-C, which reaches them too but is handled by the job.
    """

    def __init__(self, settings: Settings, *, local: bool) -> None:
        self._settings = settings
        self._local = local

    def setup(self, worker: DaskWorker) -> None:
        """Create the `Worker`; called by Dask when its worker starts."""
        settings = self._settings
        if self._local:
            settings = settings.for_local_process(int(worker.name))
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._pool = ThreadPoolExecutor(settings.processors, thread_name_prefix="codistill-views")
        self._worker = Worker(settings, self._pool)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.running_shards = 0

    def teardown(self, worker: DaskWorker) -> None:
        """Stop the threads; called by Dask when its worker ends."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Stop the running shards at their next batch of rows."""
        self._stopped.set()

    def calibrate(self, name: str, datasets: Sequence[str]) -> CalibrationReport | RemoteError:
        """Fit the code of a teacher if the cache has none; see `Worker.calibrate`."""
        try:
            return self._worker.calibrate(name, datasets)
        except errors.CodistillError as error:
            return RemoteError(message=str(error))

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int | RemoteError:
        """Load a teacher and create its arrays; see `Worker.prepare_teacher`."""
        try:
            return self._worker.prepare_teacher(name, datasets)
        except errors.CodistillError as error:
            return RemoteError(message=str(error))

    def make(self, task: Task, counts: FailureCounts) -> ShardReport | RemoteError:
        """Make one shard. Raises OSError and the errors of libraries, so that Dask tries again, perhaps elsewhere."""
        torch.set_num_threads(1)  # every thread its own image or batch
        with self._lock:
            self.running_shards += 1
        try:
            return self._worker.make(task, _RemoteWatch(counts, self._stopped))
        except OSError:
            raise  # another machine may have what this one lacks
        except errors.CodistillError as error:
            return RemoteError(message=str(error))
        finally:
            with self._lock:
                self.running_shards -= 1


class _RemoteWatch:
    """Watch over one shard on a Dask worker, which knows the job's counts only as they were at submission."""

    def __init__(self, counts: FailureCounts, stopped: threading.Event) -> None:
        self._counts = counts
        self._stopped = stopped

    def advance(self, *, rows: int, failed: int) -> None:
        """See `Watch.advance`."""
        if self._stopped.is_set():
            raise Stopped("the job was stopped; this shard is discarded")

    def check_failure_limit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """See `Watch.check_failure_limit`."""
        self.advance(rows=rows, failed=len(reasons))
        counts = self._counts
        counts.limit.check(rows=counts.rows + rows, failed=counts.failed + len(reasons), reasons=reasons)


def calibrate(plugin_name: str, teacher: str, datasets: Sequence[str]) -> CalibrationReport | RemoteError:
    """Fit the code of a teacher on this Dask worker."""
    return _plugin(plugin_name).calibrate(teacher, datasets)


def prepare_teacher(plugin_name: str, teacher: str, datasets: Sequence[str]) -> int | RemoteError:
    """Load a teacher on this Dask worker and create its arrays."""
    return _plugin(plugin_name).prepare_teacher(teacher, datasets)


def make_shard(plugin_name: str, task: Task, counts: FailureCounts) -> ShardReport | RemoteError:
    """Make a shard on this Dask worker."""
    return _plugin(plugin_name).make(task, counts)


def stop(plugin_name: str, dask_worker: DaskWorker) -> None:
    """Stop the running shards of this Dask worker."""
    dask_worker.plugins[plugin_name].stop()


def running_shards(plugin_name: str, dask_worker: DaskWorker) -> int:
    """Return how many shards this Dask worker is making."""
    return int(dask_worker.plugins[plugin_name].running_shards)


def _plugin(plugin_name: str) -> ShardWorkerPlugin:
    plugin: ShardWorkerPlugin = get_worker().plugins[plugin_name]
    return plugin
