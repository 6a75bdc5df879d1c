"""A crew of Dask workers: processes of this machine, or whoever has joined a scheduler (SLURM, several GPUs, a cloud).

Each worker keeps one workshop: cache, image lists and the loaded teacher. A bounded number of shards is under way, so
that a job of 300,000 of them costs the scheduler no more than one of 300.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

import dask
from distributed import Client, Future, LocalCluster, as_completed
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker
from distributed.utils import get_mp_context

from extract.job import dask_worker
from extract.job.dask_worker import FailureCounts, RemoteError, WorkshopPlugin
from extract.job.executor import shard_failed_error, shards_under_way
from extract.job.failure_limit import JobWatch
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.job.worker import Settings
from store import errors

UNDER_WAY_PER_THREAD = 2  # one being made, one on its way
ROUNDS_OF_DEATHS = 5  # Dask gives a task up after it lost some workers; preemption may be to blame, so again
RETRIES = 2  # of trouble that may pass, or that another machine does not have
CONNECTING_SECONDS = 30
STOPPING_SECONDS = 60.0
POLLING_SECONDS = 0.01
LONELY_SECONDS = 60.0


class DaskExecutor:
    """Dask workers; a context manager.

    Args:
        settings: of the job; device and threads are resolved on each worker.
        scheduler: address of a running scheduler, or the .json file that it wrote; None starts local processes.
        workers: how many local processes.

    Raises:
        errors.InvalidInput: the scheduler cannot be reached.
    """

    def __init__(self, settings: Settings, *, scheduler: str | None, workers: int) -> None:
        self._closing = ExitStack()
        self._name = f"codistill-{secrets.token_hex(4)}"
        self._own = scheduler is None
        try:
            self._client = self._connect(settings, scheduler, workers)
            plugin = WorkshopPlugin(settings, neighbours=scheduler is None)
            self._client.register_plugin(plugin, name=self._name)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):  # the scheduler may have gone
            self._client.unregister_worker_plugin(self._name)
        self._closing.close()

    def prepare_teacher(self, name: str, datasets: Sequence[str]) -> int:
        """See `Executor.prepare_teacher`; one worker does it."""
        work = (dask_worker.prepare_teacher, self._name, name, list(datasets))
        result = self._client.submit(*work, pure=False, retries=RETRIES).result()
        if isinstance(result, RemoteError):
            raise errors.InvalidInput(result.message)
        return int(result)

    def make(self, tasks: Sequence[Task], watch: JobWatch, on_report: Callable[[ShardReport], None]) -> None:
        """See `Executor.make`."""
        shift = _Submission(self._client, self._name, tasks, watch, own=self._own)
        try:
            for report in shift.reports():
                on_report(report)
        except BaseException:
            watch.stop()
            shift.cancel()
            raise

    def _connect(self, settings: Settings, scheduler: str | None, workers: int) -> Client:
        if scheduler is not None:
            try:
                address = address_in(Path(scheduler)) if scheduler.endswith(".json") else scheduler
                return self._closing.enter_context(Client(address, timeout=CONNECTING_SECONDS))
            except (OSError, ValueError, KeyError) as error:
                raise errors.InvalidInput(f"--scheduler {scheduler}: cannot be reached ({error})") from error
        # A server that has everything imported forks the workers: one that died is back in a second.
        forking = dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        self._closing.enter_context(forking)
        get_mp_context().set_forkserver_preload(["distributed", "extract.job.dask_worker"])
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=shards_under_way(settings, processes=workers),
            host="127.0.0.1",
            memory_limit=None,
            dashboard_address=None,
        )
        return self._closing.enter_context(Client(self._closing.enter_context(cluster)))


def address_in(file: Path) -> str:
    """The address in a file that `dask scheduler --scheduler-file` wrote."""
    return str(json.loads(file.read_text(encoding="utf-8"))["address"])


class _Submission:
    """One list of shards on its way through the workers."""

    def __init__(self, client: Client, crew: str, tasks: Sequence[Task], watch: JobWatch, *, own: bool) -> None:
        self._client, self._crew, self._watch, self._own = client, crew, watch, own
        self._waiting = iter(tasks)
        self._rows, self._failed = 0, 0
        self._tasks: dict[Future, Task] = {}
        self._rounds: Counter[Task] = Counter()

    def reports(self) -> Iterable[ShardReport]:
        """Hand out shards, and yield what became of each."""
        completed = as_completed(self._submit(islice(self._waiting, self._room())))
        while not completed.is_empty():
            self._wait(completed)
            future = next(completed)
            task = self._tasks.pop(future)
            report = self._result(future, task)
            if report is None:
                completed.update(self._submit([task]))
                continue
            self._rows += report.rows
            self._failed += report.failed
            self._watch.advance(rows=report.rows, failed=report.failed)
            yield report
            completed.update(self._submit(islice(self._waiting, self._room())))

    def cancel(self) -> None:
        """Take back what was not begun, and wait until workers have given up the rest."""
        with suppress(OSError, ValueError, TimeoutError):
            self._client.cancel(list(self._tasks))
            self._client.run(dask_worker.stop, self._crew, on_error="ignore")
            deadline = time.monotonic() + STOPPING_SECONDS
            while time.monotonic() < deadline:
                counts: dict[str, Any] = self._client.run(dask_worker.under_way, self._crew, on_error="ignore")
                if not any(counts.values()):
                    return
                time.sleep(0.1)

    def _wait(self, completed: as_completed) -> None:
        """Until a shard is done; of workers that this job started, some must be alive within LONELY_SECONDS."""
        asked = last_seen = time.monotonic()
        while not completed.has_ready():
            time.sleep(POLLING_SECONDS)
            now = time.monotonic()
            if not self._own or now - asked < LONELY_SECONDS / 10:
                continue
            asked = now
            if self._client.nthreads():
                last_seen = now
            elif now - last_seen > LONELY_SECONDS:
                raise errors.JobFailed(
                    f"no worker process came back within {LONELY_SECONDS:.0f} s. What is published is whole. Find out "
                    "why they died (memory?), then run the same command again"
                )

    def _room(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(1, UNDER_WAY_PER_THREAD * threads - len(self._tasks))

    def _submit(self, tasks: Iterable[Task]) -> list[Future]:
        futures = []
        for task in tasks:
            tally = FailureCounts(limit=self._watch.limit, rows=self._rows, failed=self._failed)
            key = f"{task.array}-{task.dataset}-{task.shard}-{secrets.token_hex(4)}"
            work = (dask_worker.make_shard, self._crew, task, tally)
            future = self._client.submit(*work, key=key, retries=RETRIES)
            self._tasks[future] = task
            futures.append(future)
        return futures

    def _result(self, future: Future, task: Task) -> ShardReport | None:
        """What a worker returned, or None if the shard should be handed out again."""
        try:
            # Not only a failed future raises: of a finished one the worker may die before it has told its result.
            result: ShardReport | RemoteError = future.result()
        except (KilledWorker, FutureCancelledError) as error:
            self._rounds[task] += 1
            if self._rounds[task] > ROUNDS_OF_DEATHS:
                raise shard_failed_error(task, error) from error
            return None
        except Exception as error:  # whatever a library raised on a worker, after as many tries as there are
            raise shard_failed_error(task, error) from error
        if isinstance(result, RemoteError):
            raise errors.JobFailed(result.message)
        return result
