"""Dask workers make the same cache as one process does, also when they are killed."""

import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

import store
from extract.catalogue import load_catalogue
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of
from tests.extract.children import finish, published, start

KILLS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue of 26 shards an array, and two caches that are the same so far, down to their uuid."""
    builders.image_folder(tmp_path / "images", 50)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    catalogue = small_catalogue(tmp_path, datasets=builders.dataset_entry("pictures", "views = 4"))
    store.create(tmp_path / "alone", load_catalogue(catalogue).recipe.stored())
    shutil.copytree(tmp_path / "alone", tmp_path / "together")
    return tmp_path


def workers_of(job: ForkServerProcess) -> list[psutil.Process]:
    """The job's worker processes: children of the server that it forks them from."""
    return [worker for server in psutil.Process(job.pid).children() for worker in server.children()]


def shards(cache: Path) -> int:
    return len(list(cache.rglob("c.*.0.0*")))


def test_killed_workers(folder: Path) -> None:
    assert finish(folder, "alone") == 0
    job = start(folder, "together", "--workers", "2")
    random.seed(3)
    killed, before = 0, 0
    while killed < KILLS and job.is_alive():
        now = shards(folder / "together")
        if now > before and (workers := workers_of(job)):
            time.sleep(random.uniform(0, 0.03))
            random.choice(workers).kill()
            killed, before = killed + 1, now
        time.sleep(0.005)
    job.join()
    assert job.exitcode == 0, (folder / "together.txt").read_text()
    assert killed == KILLS
    assert tree_of(folder / "together") == tree_of(folder / "alone")
    assert max(published(folder / "together.jsonl").values()) == 1


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
    place = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **place) as cluster:
        address = cluster.scheduler_address
        options = ("--batch-size", "3", "--threads", "1", "--scheduler", address)
        catalogue, cache = folder / "catalogue.toml", folder / "together"
        assert run_extract(catalogue, "--cache", cache, *options) == 0
        assert tree_of(cache) == tree_of(folder / "alone")
        (folder / "first.safetensors").write_bytes(b"no weights")
        assert run_extract(catalogue, "--cache", cache, *options) == 2
        assert "error: " in capsys.readouterr().err
        assert run_extract(catalogue, "--cache", folder / "strict", *options, "--max-failed", "0%") == 1
        assert "4 of" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.cluster.CONNECTING_SECONDS", 1)
    options = ("--scheduler", "tcp://127.0.0.1:9", "--stages", "index")
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "together", *options) == 2
    assert "--scheduler tcp://127.0.0.1:9: cannot be reached" in capsys.readouterr().err
