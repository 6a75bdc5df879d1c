"""Extraction in processes of their own, which tests may kill."""

import json
import multiprocessing
import resource
import signal
import sys
import traceback
from collections import Counter
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch

from tests.extract.builders import run_extract

PRELOADED = [
    "tests.extract.children",
    "extract.__main__",
    "extract.job.executor",
    "extract.job.job",
    "extract.job.summary",
]


def context() -> ForkServerContext:
    """Processes that start with everything imported, so that kills hit work rather than imports."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def extract_in_child(arguments: list[str], output: str, file_limit: int | None) -> None:
    """What the child runs; its output goes to a file."""
    torch.set_num_threads(1)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with open(output, "w", encoding="utf-8") as stream:
        sys.stdout = sys.stderr = stream
        try:
            sys.exit(run_extract(*arguments))
        except Exception:
            traceback.print_exc()
            raise


def start(folder: Path, cache: str, *options: str, file_limit: int | None = None) -> ForkServerProcess:
    """Begin to extract `folder`/catalogue.toml; output and events go to `<cache>.txt` and `<cache>.jsonl`."""
    arguments = [str(folder / "catalogue.toml"), "--cache", str(folder / cache), "--batch-size", "3", "--threads", "1"]
    arguments += ["--events", str(folder / f"{cache}.jsonl"), *options]
    child = context().Process(target=extract_in_child, args=(arguments, str(folder / f"{cache}.txt"), file_limit))
    child.start()
    return child


def finish(folder: Path, cache: str, *options: str) -> int | None:
    """Extract to the end; the exit code."""
    child = start(folder, cache, *options)
    child.join()
    return child.exitcode


def made(events: Path, *, published: bool | None = None) -> Counter[tuple[str, str, int]]:
    """How often each shard was made to its end, by the event log; or only by those who were first, or came too late."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    shards = [line for line in lines if line["event"] == "shard" and published in (None, line["published"])]
    return Counter((shard["dataset"], shard["array"], shard["shard"]) for shard in shards)
