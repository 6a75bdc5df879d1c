"""Dask workers make the same cache as one process, also when they are killed."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from distributed import Future, LocalCluster
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

import store
from extract.catalogue import TeacherEntry, load_catalogue
from extract.job import dask_executor, worker
from extract.job.failure_limit import FailureLimit, JobWatch
from extract.job.tasks import Task
from extract.teachers.base import Teacher
from store import errors
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of
from tests.extract.children import finish, made, start

KILLS = 24
SETTLED_SECONDS = 0.3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue of 51 shards an array, and two caches that are the same so far, down to their uuid."""
    builders.image_folder(tmp_path / "images", 50)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    catalogue = small_catalogue(tmp_path, datasets=builders.dataset_entry("pictures", "views = 8"))
    store.create(tmp_path / "alone", load_catalogue(catalogue).recipe.stored())
    shutil.copytree(tmp_path / "alone", tmp_path / "together")
    return tmp_path


def workers_of(job: ForkServerProcess) -> list[psutil.Process]:
    """The job's worker processes: children of the server that it forks them from.

    Not those of the last moment: Dask does not replace a process that dies before it has reported that it was forked.
    """
    workers = [worker for server in psutil.Process(job.pid).children() for worker in server.children()]
    return [worker for worker in workers if time.time() - worker.create_time() > SETTLED_SECONDS]


def shards(cache: Path) -> int:
    """Number of published shards."""
    return sum(re.fullmatch(r"c(\.\d+)+", path.name) is not None for path in cache.rglob("c.*"))


@pytest.mark.timeout(900)
def test_killed_workers(folder: Path) -> None:
    assert finish(folder, "alone") == 0
    job = start(folder, "together", "--workers", "2")
    random.seed(3)
    killed, before = 0, 0
    while killed < KILLS and job.is_alive():
        now = shards(folder / "together")
        if now > before and (workers := workers_of(job)):
            time.sleep(random.uniform(0, 0.03))
            with suppress(psutil.NoSuchProcess):
                random.choice(workers).kill()
                killed, before = killed + 1, now
        time.sleep(0.005)
    job.join()
    assert job.exitcode == 0, (folder / "together.txt").read_text()
    assert killed == KILLS
    assert tree_of(folder / "together") == tree_of(folder / "alone")
    assert max(made(folder / "together.jsonl").values()) == 1


def test_interrupted(folder: Path) -> None:
    job = start(folder, "together", "--workers", "2")
    while shards(folder / "together") < 2:
        assert job.is_alive(), (folder / "together.txt").read_text()
        time.sleep(0.005)
    workers = workers_of(job)
    for process in [psutil.Process(job.pid), *workers]:  # as Ctrl-C in a terminal
        os.kill(process.pid, signal.SIGINT)
    job.join(60)
    assert job.exitcode == 130, (folder / "together.txt").read_text()
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert not list((folder / "together").rglob("*.tmp*"))


def test_workers_of_a_running_scheduler(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(folder, "alone") == 0
    local = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **local) as workers:
        address = workers.scheduler_address
        options = ("--batch-size", "3", "--threads", "1", "--scheduler", address)
        catalogue, cache = folder / "catalogue.toml", folder / "together"
        assert run_extract(catalogue, "--cache", cache, *options) == 0
        assert tree_of(cache) == tree_of(folder / "alone")
        (folder / "first.safetensors").write_bytes(b"no weights")
        assert run_extract(catalogue, "--cache", cache, *options) == 2
        assert "error: " in capsys.readouterr().err
        assert run_extract(catalogue, "--cache", folder / "strict", *options, "--max-failed", "0%") == 1
        assert "8 of" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.job.dask_executor.CONNECTING_SECONDS", 1)
    options = ("--scheduler", "tcp://127.0.0.1:9", "--stages", "index")
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "together", *options) == 2
    assert "--scheduler tcp://127.0.0.1:9: cannot be reached" in capsys.readouterr().err


def test_one_teacher_a_worker_and_few_shards_submitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, submitted = [], []
    load, submit = worker.load_teacher, dask_executor._Submission._submit

    def counted_load(entry: TeacherEntry, *, device: str) -> Teacher:
        loads.append(entry.name)
        return load(entry, device=device)

    def counted_submit(submission: dask_executor._Submission, tasks: Iterable[Task]) -> list[Future]:
        futures = submit(submission, tasks)
        submitted.append(len(submission._submitted))
        return futures

    monkeypatch.setattr(worker, "load_teacher", counted_load)
    monkeypatch.setattr(dask_executor._Submission, "_submit", counted_submit)
    local = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **local) as workers:
        options = ("--batch-size", "3", "--threads", "1", "--scheduler", workers.scheduler_address)
        assert run_extract(folder / "catalogue.toml", "--cache", folder / "together", *options) == 0
    assert loads == ["first", "first"]
    assert max(submitted) == dask_executor.SHARDS_PER_THREAD * 4
    assert len(submitted) > 2 * 51  # submitted one by one, as others were done


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


def test_a_job_whose_processes_never_come_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "NO_WORKER_SECONDS", 0.2)
    nobody = SimpleNamespace(nthreads=dict)
    nothing = SimpleNamespace(has_ready=lambda: False)
    submission = dask_executor._Submission(
        nobody, "plugin", [], JobWatch(FailureLimit(share=0.0), lambda rows, failed: None), local=True
    )
    with pytest.raises(errors.JobFailed, match="no worker process came back"):
        submission._wait(nothing)
