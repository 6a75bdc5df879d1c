"""Dask workers make the same cache as one process, also when they are killed."""

import os
import shutil
import signal
import threading
from collections.abc import Iterable
from functools import partial
from itertools import cycle
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from distributed import Future, LocalCluster
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

import store
from extract.catalogue import TeacherEntry, load_catalogue
from extract.job import dask_executor, stages, worker
from extract.job.failure_limit import FailureLimit, JobWatch
from extract.job.stages import ShardReport
from extract.job.tasks import Task
from extract.teachers.base import Teacher
from store import errors
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of
from tests.extract.children import finish, made, start
from tests.extract.dask_children import Death, HoldWorkers, KillWorkers, listen, next_pid
from tests.points import WRITE
from tests.thoroughness import cases

SHARDS = cases(thorough=26, usual=12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue of SHARDS shards an array, and two caches that are the same so far, down to their uuid."""
    builders.image_folder(tmp_path / "images", SHARDS - 1)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    catalogue = small_catalogue(tmp_path, datasets=builders.dataset_entry("pictures", "views = 8"))
    store.create(tmp_path / "alone", load_catalogue(catalogue).recipe.stored())
    shutil.copytree(tmp_path / "alone", tmp_path / "together")
    return tmp_path


def test_killed_workers(folder: Path) -> None:
    """At each kind of call, over and over: begun, half written, unsynced, unpublished, published and not reported."""
    kinds = ("open", WRITE, "fsync", "link", "unlink")
    deaths = [
        Death(array, shard, kind)
        for array in ("pixels", "tokens")
        for shard, kind in zip(range(0, SHARDS, 2), cycle(kinds), strict=False)
    ]
    assert finish(folder, "alone") == 0
    (folder / "deaths").mkdir()
    kill = KillWorkers(cache=folder / "together", deaths=deaths, folder=folder / "deaths")
    while finish(folder, "together", "--workers", "2", prepare=kill) != 0:
        # Dask does not replace every worker: the job then ends in order, and is run again as its message asks.
        assert "run the same command again" in (folder / "together.txt").read_text()
    assert {path.name for path in (folder / "deaths").iterdir()} == {"-".join(map(str, d)) for d in deaths} | {"socket"}
    assert tree_of(folder / "together") == tree_of(folder / "alone")
    assert max(made(folder / "together.jsonl").values()) == 1


def test_interrupted(folder: Path) -> None:
    with listen(folder / "socket") as held:
        hold = HoldWorkers(cache=folder / "together", address=folder / "socket")
        job = start(folder, "together", "--workers", "2", prepare=hold)
        workers = []
        for _ in range(2):
            assert held in wait([held, job.sentinel]), (folder / "together.txt").read_text()
            workers.append(psutil.Process(next_pid(held)))
    for process in [psutil.Process(job.pid), *workers]:  # as Ctrl-C in a terminal
        os.kill(process.pid, signal.SIGINT)
    job.join()
    assert job.exitcode == 130, (folder / "together.txt").read_text()
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert not list((folder / "together").rglob("*.tmp*"))


def test_workers_of_a_running_scheduler(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(folder, "alone") == 0
    local = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **local) as workers:
        address = workers.scheduler_address
        options = ("--batch-size", "3", "--threads", "1", "--scheduler", address)
        catalogue, cache = folder / "catalogue.toml", folder / "together"
        assert run_extract(catalogue, "--cache", cache, *options) == 0
        assert tree_of(cache) == tree_of(folder / "alone")
        (folder / "first.safetensors").write_bytes(b"no weights")
        assert run_extract(catalogue, "--cache", cache, *options) == 2
        assert "error: " in capsys.readouterr().err
        builders.teacher_weights(folder / "first.safetensors", seed=1)
        assert run_extract(catalogue, "--cache", folder / "strict", *options, "--max-failed", "0%") == 1
        assert "8 of" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.job.dask_executor.CONNECTING_SECONDS", 0.01)
    options = ("--scheduler", "tcp://127.0.0.1:9", "--stages", "index")
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "together", *options) == 2
    assert "--scheduler tcp://127.0.0.1:9: cannot be reached" in capsys.readouterr().err


def test_one_teacher_a_worker_and_few_shards_submitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, submitted, both_loaded = [], [], threading.Event()
    load, submit, make = worker.load_teacher, dask_executor._Submission._submit, stages.features_shard

    def counted_load(entry: TeacherEntry, *, device: str) -> Teacher:
        loads.append(entry.name)
        if len(loads) == 2:
            both_loaded.set()
        return load(entry, device=device)

    def counted_submit(submission: dask_executor._Submission, tasks: Iterable[Task]) -> list[Future]:
        futures = submit(submission, tasks)
        submitted.append(len(submission._submitted))
        return futures

    def shard_once_both_work(*arguments: Any, **options: Any) -> ShardReport:
        both_loaded.wait()  # so that neither makes all of them
        return make(*arguments, **options)

    monkeypatch.setattr(worker, "load_teacher", counted_load)
    monkeypatch.setattr(stages, "features_shard", shard_once_both_work)
    monkeypatch.setattr(dask_executor._Submission, "_submit", counted_submit)
    local = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **local) as workers:
        options = ("--batch-size", "3", "--threads", "1", "--scheduler", workers.scheduler_address)
        assert run_extract(folder / "catalogue.toml", "--cache", folder / "together", *options) == 0
    assert loads == ["first", "first"]
    assert max(submitted) == dask_executor.SHARDS_PER_THREAD * 4
    assert len(submitted) > 2 * SHARDS  # submitted one by one, as others were done


class Lost:
    """A finished future whose worker died before it sent the result."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def result(self) -> None:
        raise self.error


def test_results_that_died_with_their_worker_are_made_again() -> None:
    submission = dask_executor._Submission(
        None, "plugin", [], JobWatch(FailureLimit(share=0.0), lambda rows, failed: None), local=True
    )
    task = Task(dataset="d", array="t", shard=3, rows=5)
    worker = SimpleNamespace(address="tcp://lost:1")
    for error in (KilledWorker("key", worker, 3), FutureCancelledError("key", "scheduler-restart")):
        submission._losses.clear()
        assert [submission._result(Lost(error), task) for _ in range(dask_executor.RESUBMISSIONS)] == [None] * 5
        with pytest.raises(errors.JobFailed, match="shard 3 of 'd/t' could not be made"):
            submission._result(Lost(error), task)
    with pytest.raises(errors.JobFailed, match="could not be made: out of something"):
        submission._result(Lost(RuntimeError("out of something")), task)


class Clock:
    """Stands in for the module `time`: it passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class NeverReturns:
    """A finished future whose result no worker can give any more; without workers Dask waits for one for ever."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.ended = threading.Event()

    def result(self) -> None:
        self.asked.set()
        self.ended.wait()


@pytest.mark.parametrize("finished", [False, True])
def test_a_job_whose_processes_never_come_back_ends(finished: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a shard is done, and after it, when only its report is missing."""
    clock, back_at = Clock(), dask_executor.NO_WORKER_SECONDS / 2
    monkeypatch.setattr(dask_executor, "time", clock)
    back_once = SimpleNamespace(nthreads=lambda: {"tcp://one": 1} if back_at <= clock.now < back_at + 10 else {})
    submission = dask_executor._Submission(
        back_once, "plugin", [], JobWatch(FailureLimit(share=0.0), lambda rows, failed: None), local=True
    )
    future = NeverReturns()
    wait_for_shard = partial(dask_executor.wait_while_workers_live, lambda: False, back_once, local=True)
    wait_for_report = partial(submission._result, future, Task(dataset="d", array="t", shard=3, rows=5))
    with pytest.raises(errors.JobFailed, match="no worker process came back within 60 s"):
        (wait_for_report if finished else wait_for_shard)()
    assert clock.now > back_at + dask_executor.NO_WORKER_SECONDS
    assert future.asked.is_set() is finished
    future.ended.set()
