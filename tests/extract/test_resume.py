"""A job that is killed at any moment, stopped or starved of space loses the shards under way and nothing else."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

import store
from extract.catalogue import load_catalogue
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of

FEWEST_KILLS = 5
TEMPORARY = "*.tmp*"


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Processes that start with everything imported, so that kills hit work rather than imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.extract.builders", "extract.engine", "extract.crew", "extract.summary"])
    return context


def extract_in_child(arguments: list[str], output: str, file_limit: int | None) -> None:
    import torch

    torch.set_num_threads(1)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    with open(output, "w", encoding="utf-8") as stream:
        sys.stdout = sys.stderr = stream
        sys.exit(run_extract(*arguments))


def start(server: ForkServerContext, folder: Path, cache: str, *, file_limit: int | None = None) -> ForkServerProcess:
    arguments = [str(folder / "catalogue.toml"), "--cache", str(folder / cache), "--batch-size", "3"]
    arguments += ["--events", str(folder / f"{cache}.jsonl")]
    child = server.Process(target=extract_in_child, args=(arguments, str(folder / f"{cache}.txt"), file_limit))
    child.start()
    return child


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue with a broken image, and two caches that are the same so far, down to their uuid."""
    builders.image_folder(tmp_path / "images", 21)
    (tmp_path / "images" / "part0" / "broken.png").write_bytes(b"broken")
    catalogue = small_catalogue(tmp_path)
    store.create(tmp_path / "undisturbed", load_catalogue(catalogue).recipe.stored())
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "disturbed")
    return tmp_path


def published(events: Path) -> Counter[tuple[str, str, int]]:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return Counter((e["dataset"], e["array"], e["shard"]) for e in lines if e["event"] == "shard" and e["published"])


def test_killed_at_random_moments(server: ForkServerContext, folder: Path) -> None:
    assert start_and_join(server, folder, "undisturbed") == 0
    random.seed(20)
    kills = 0
    while True:
        child = start(server, folder, "disturbed")
        wait_for_changes(folder / "disturbed", random.randint(2, 10), child)
        time.sleep(random.uniform(0, 0.02))
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        kills += 1
    assert kills >= FEWEST_KILLS
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")
    assert max(published(folder / "disturbed.jsonl").values()) == 1


def wait_for_changes(cache: Path, changes: int, child: ForkServerProcess) -> None:
    """Until so many files were seen to come or go, or the job ends by itself."""
    before = {str(path) for path in cache.rglob("*")}
    while changes > 0 and child.is_alive():
        time.sleep(0.002)
        now = {str(path) for path in cache.rglob("*")}
        changes -= len(now ^ before)
        before = now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_order(server: ForkServerContext, folder: Path, number: signal.Signals) -> None:
    child = start(server, folder, "disturbed")
    while not list((folder / "disturbed").rglob("c.0.*")):
        time.sleep(0.001)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == 130
    assert "run the same command again to go on" in (folder / "disturbed.txt").read_text()
    assert not list((folder / "disturbed").rglob(TEMPORARY))


def test_no_space_left(server: ForkServerContext, folder: Path) -> None:
    """A limit on file size stands in for a full disk: the write fails in the middle of a shard."""
    full = start(server, folder, "disturbed", file_limit=10_000)
    full.join()
    assert full.exitcode == 1
    output = (folder / "disturbed.txt").read_text()
    assert "could not be made: [Errno 27] File too large" in output
    assert "then run the same command again" in output
    assert not list((folder / "disturbed").rglob("c.*"))
    assert start_and_join(server, folder, "disturbed") == 0
    assert start_and_join(server, folder, "undisturbed") == 0
    assert tree_of(folder / "disturbed") == tree_of(folder / "undisturbed")


def start_and_join(server: ForkServerContext, folder: Path, cache: str) -> int | None:
    child = start(server, folder, cache)
    child.join()
    return child.exitcode
