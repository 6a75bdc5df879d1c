"""A few threads that share a list of tasks with the caller."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeAlias, TypeVar

Task: TypeAlias = Callable[[], None]


class Crew:
    """Runs tasks on the calling thread and up to `threads - 1` others, kept between calls; survives a fork."""

    def __init__(self, threads: int) -> None:
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
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="codistill-crew")
                self._pid = os.getpid()
            return self._pool


def _drain(pending: Iterator[Task]) -> None:
    for task in pending:
        task()


IN_FLIGHT = 256
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in the order of items, computing a bounded number ahead."""
    remaining = iter(items)
    running: deque[tuple[Item, Future[Result]]] = deque()
    running.extend((item, pool.submit(function, item)) for item in islice(remaining, IN_FLIGHT))
    while running:
        item, future = running.popleft()
        yield item, future.result()
        running.extend((item, pool.submit(function, item)) for item in islice(remaining, 1))


T = TypeVar("T")

R = TypeVar("R")


def ordered_map(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Yield `function(item)` of each item in order, computing at most `ahead` items before they are asked for.

    What `function` raises is raised here; items not begun by then, or when the iterator is closed, are not begun.
    """
    waiting: deque[Future[R]] = deque()
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
