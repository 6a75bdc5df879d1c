"""Processes that start with everything imported, forked from a server; tests may kill them."""

import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch
from tqdm import tqdm

PRELOADED = [
    "tests.children",
    "tests.extract.children",
    "tests.train.children",
    "extract.__main__",
    "extract.job.executor",
    "extract.job.job",
    "extract.job.summary",
    "extract.plan.plan",
    "extract.teachers.listing",
    "extract.teachers.timm_model",
    "train.loop",
    "pandas",  # pyarrow imports it where it is installed
    "pyarrow.dataset",
    "rich.console",
    "PIL.PngImagePlugin",
    "typeguard",
]


def context() -> ForkServerContext:
    """Return the server, which starts with the first process."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def start(work: Callable[[], int | None], *, output: Path) -> ForkServerProcess:
    """Begin `work` in a child; its result is the exit code, and what it prints goes to a file."""
    child = context().Process(target=_run, args=(work, output))
    child.start()
    return child


def nothing() -> None:
    """Prepare nothing."""


def _run(work: Callable[[], int | None], output: Path) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would be shared with other processes, and left behind by a killed one
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with open(output, "w", encoding="utf-8") as stream:
        sys.stdout = sys.stderr = stream
        try:
            sys.exit(work())
        except Exception:
            traceback.print_exc()
            raise
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # the file is closed; others print at their end
