"""Threads: a team that works on a list of tasks together with the caller, and a map over a pool in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeAlias, TypeVar

IN_FLIGHT = 256  # results of small items that may wait to be taken

Task: TypeAlias = Callable[[], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class ThreadTeam:
    """Threads that run tasks together with the calling thread; they stay between calls, and a fork starts its own."""

    def __init__(self, threads: int) -> None:
        """Start nothing yet; `run` uses the calling thread and up to `threads - 1` others."""
        self._threads = threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all tasks; the first error is raised once every thread has stopped."""
        pending = iter(tasks)
        helpers = min(self._threads, len(tasks)) - 1
        running = [self._helpers().submit(_drain, pending) for _ in range(helpers)] if helpers > 0 else []
        try:
            _drain(pending)
        finally:  # also on Ctrl-C: the others must leave the caller's buffers first
            for _ in pending:
                pass
            # One that has not begun is not waited for: on a busy machine that takes milliseconds.
            failures = [future.exception() for future in running if not future.cancel()]
        for failure in failures:
            if failure is not None:
                raise failure

    def close(self) -> None:
        """Stop the threads; the next `run` starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown(wait=True)

    def _helpers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():  # threads do not survive a fork
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="codistill-threads")
                self._pid = os.getpid()
            return self._pool


def _drain(pending: Iterator[Task]) -> None:
    for task in pending:
        task()


def ordered_map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Yield `function(item)` of each item in order, computing at most `ahead` items before they are asked for.

    An error of `function` is raised here; items not begun by then, or when the iterator is closed, are not begun.
    """
    waiting: deque[Future[Result]] = deque()
    remaining = iter(items)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(remaining, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
