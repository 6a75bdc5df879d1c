"""Executor over Dask workers: processes of this machine, or all that joined a scheduler (SLURM, several GPUs, a cloud).

Each Dask worker holds one `Worker`: open cache, image lists and the loaded teacher. Only a bounded number of shards is
submitted at a time, so a job of 300,000 shards costs the scheduler no more than one of 300.
"""

import concurrent.futures
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

import dask
from distributed import Client, Future, as_completed
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker
from distributed.utils import get_mp_context

from extract.job import dask_worker
from extract.job.calibration import Advance, CalibrationReport
from extract.job.dask_worker import FailureCounts, RemoteError, ShardWorkerPlugin
from extract.job.executor import concurrent_shards, shard_failed_error
from extract.job.failure_limit import JobWatch
from extract.job.local_cluster import local_cluster
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.worker import Settings
from store import errors

SHARDS_PER_THREAD = 2  # one that runs, one that waits for the thread
RESUBMISSIONS = 5  # Dask abandons a task that lost some workers; preemption may be the cause, so submit it again
RETRIES = 2  # for errors that may pass, or that another machine does not have
CONNECTING_SECONDS = 30
STOPPING_SECONDS = 60.0
POLLING_SECONDS = 0.01
NO_WORKER_SECONDS = 60.0


class DaskExecutor:
    """Makes shards on Dask workers; a context manager.

    Args:
        settings: settings of the job; device and threads are resolved on each worker.
        scheduler: address of a running scheduler, or the .json file that it wrote; None starts local processes.
        workers: number of local processes.

    Raises:
        errors.InvalidInput: the scheduler cannot be reached.
    """

    def __init__(self, settings: Settings, *, scheduler: str | None, workers: int) -> None:
        self._closing = ExitStack()
        self._plugin_name = f"codistill-{secrets.token_hex(4)}"
        self._local = scheduler is None
        try:
            self._client = self._connect(settings, scheduler, workers)
            plugin = ShardWorkerPlugin(settings, local=self._local)
            self._client.register_plugin(plugin, name=self._plugin_name)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):  # the scheduler may have ended
            self._client.unregister_worker_plugin(self._plugin_name)
        self._closing.close()

    def calibrate(self, name: str, datasets: Sequence[str], on_advance: Advance) -> CalibrationReport:
        """See `Executor.calibrate`; runs on one worker, which tells nothing of its progress."""
        report: CalibrationReport = self._on_one_worker(dask_worker.calibrate, name, datasets)
        return report

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """See `Executor.prepare_teacher`; runs on one worker."""
        return int(self._on_one_worker(dask_worker.prepare_teacher, name, datasets))

    def _on_one_worker(self, function: Callable[..., Any], teacher: str, datasets: Sequence[str]) -> Any:
        future = self._client.submit(function, self._plugin_name, teacher, list(datasets), pure=False, retries=RETRIES)
        result = result_of(future, self._client, local=self._local)
        if isinstance(result, RemoteError):
            raise errors.InvalidInput(result.message)
        return result

    def make(self, tasks: Sequence[Task], watch: JobWatch, on_report: Callable[[ShardReport], None]) -> None:
        """See `Executor.make`."""
        submission = _Submission(self._client, self._plugin_name, tasks, watch, local=self._local)
        try:
            for report in submission.reports():
                on_report(report)
        except BaseException:
            watch.stop()
            submission.cancel()
            raise

    def _connect(self, settings: Settings, scheduler: str | None, workers: int) -> Client:
        if scheduler is not None:
            try:
                address = read_address(Path(scheduler)) if scheduler.endswith(".json") else scheduler
                return self._closing.enter_context(Client(address, timeout=CONNECTING_SECONDS))
            except (OSError, ValueError, KeyError) as error:
                raise errors.InvalidInput(f"--scheduler {scheduler}: cannot be reached ({error})") from error
        # Workers are forked from a server that has everything imported: one that died is replaced within a second.
        forking = dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        self._closing.enter_context(forking)
        get_mp_context().set_forkserver_preload(["distributed", "extract.job.dask_worker", "extract.job.local_cluster"])
        cluster = local_cluster(workers=workers, threads=concurrent_shards(settings, processes=workers))
        return self._closing.enter_context(Client(self._closing.enter_context(cluster)))


def read_address(file: Path) -> str:
    """Return the address in a file that `dask scheduler --scheduler-file` wrote."""
    return str(json.loads(file.read_text(encoding="utf-8"))["address"])


class _Submission:
    """Submits one list of shards to the Dask workers, a bounded number at a time, and collects their reports.

    Args:
        client: client of the scheduler.
        plugin_name: name of the job's plugin on the workers.
        tasks: shards to make.
        watch: receives progress.
        local: whether this job started the workers, so that one of them must always come back.
    """

    def __init__(
        self, client: Client, plugin_name: str, tasks: Sequence[Task], watch: JobWatch, *, local: bool
    ) -> None:
        self._client, self._plugin_name, self._watch, self._local = client, plugin_name, watch, local
        self._pending = iter(tasks)
        self._rows, self._failed = 0, 0
        self._submitted: dict[Future, Task] = {}
        self._losses: Counter[Task] = Counter()

    def reports(self) -> Iterable[ShardReport]:
        """Submit the shards, and yield the report of each finished one."""
        completed = as_completed(self._submit(islice(self._pending, self._free_slots())))
        while not completed.is_empty():
            wait_while_workers_live(completed.has_ready, self._client, local=self._local)
            future = next(completed)
            task = self._submitted.pop(future)
            report = self._result(future, task)
            if report is None:
                completed.update(self._submit([task]))
                continue
            self._rows += report.rows
            self._failed += report.failed
            self._watch.advance(rows=report.rows, failed=report.failed)
            yield report
            completed.update(self._submit(islice(self._pending, self._free_slots())))

    def cancel(self) -> None:
        """Cancel the shards that have not begun, and wait until the workers have stopped the others."""
        with suppress(OSError, ValueError, TimeoutError):
            self._client.cancel(list(self._submitted))
            self._client.run(dask_worker.stop, self._plugin_name, on_error="ignore")
            deadline = time.monotonic() + STOPPING_SECONDS
            while time.monotonic() < deadline:
                call = (dask_worker.running_shards, self._plugin_name)
                running: dict[str, Any] = self._client.run(*call, on_error="ignore")
                if not any(running.values()):
                    return
                time.sleep(0.1)

    def _free_slots(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(1, SHARDS_PER_THREAD * threads - len(self._submitted))

    def _submit(self, tasks: Iterable[Task]) -> list[Future]:
        futures = []
        for task in tasks:
            counts = FailureCounts(limit=self._watch.limit, rows=self._rows, failed=self._failed)
            key = f"{task.array}-{task.dataset}-{task.shard}-{secrets.token_hex(4)}"
            call = (dask_worker.make_shard, self._plugin_name, task, counts)
            future = self._client.submit(*call, key=key, retries=RETRIES)
            self._submitted[future] = task
            futures.append(future)
        return futures

    def _result(self, future: Future, task: Task) -> ShardReport | None:
        """Return the report of a finished shard; None if the shard should be submitted again."""
        try:
            # A finished future may raise, too, or wait: its worker may have died before it sent the result.
            result: ShardReport | RemoteError = result_of(future, self._client, local=self._local)
        except (KilledWorker, FutureCancelledError) as error:
            self._losses[task] += 1
            if self._losses[task] > RESUBMISSIONS:
                raise shard_failed_error(task, error) from error
            return None
        except NoWorker:
            raise
        except Exception as error:  # whatever a library raised on a worker, after all retries
            raise shard_failed_error(task, error) from error
        if isinstance(result, RemoteError):
            raise errors.JobFailed(result.message)
        return result


class NoWorker(errors.JobFailed):
    """All workers that this job started died, and none came back."""


def result_of(future: Future, client: Client, *, local: bool) -> Any:
    """Return the result of a future, or raise its error.

    Args:
        future: future of `client`, done or not.
        client: client of the scheduler.
        local: whether this job started the workers, so that one of them must always come back.

    Raises:
        NoWorker: no worker is left to give the result.
    """
    fetched: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def fetch() -> None:
        try:
            fetched.set_result(future.result())
        except BaseException as error:
            fetched.set_exception(error)

    # Dask waits without limit for a worker that can give the result.
    threading.Thread(target=fetch, name="codistill-result", daemon=True).start()
    wait_while_workers_live(fetched.done, client, local=local)
    return fetched.result()


def wait_while_workers_live(done: Callable[[], bool], client: Client, *, local: bool) -> None:
    """Wait until `done` returns True.

    Args:
        done: whether what is waited for has come.
        client: client of the scheduler.
        local: whether this job started the workers, so that one of them must always come back.

    Raises:
        NoWorker: all workers that this job started died, and none came back within NO_WORKER_SECONDS.
    """
    last_check = last_seen = time.monotonic()
    while not done():
        time.sleep(POLLING_SECONDS)
        now = time.monotonic()
        if not local or now - last_check < NO_WORKER_SECONDS / 10:
            continue
        last_check = now
        if client.nthreads():
            last_seen = now
        elif now - last_seen > NO_WORKER_SECONDS:
            raise NoWorker(
                f"no worker process came back within {NO_WORKER_SECONDS:.0f} s. What is published is whole. Find "
                "out why they died (memory?), then run the same command again"
            )
