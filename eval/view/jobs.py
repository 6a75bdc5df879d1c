"""Computations in the background that tell how far they are; their results stay, a few at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from store.errors import CodistillError

BUILDING, READY, FAILED = "building", "ready", "failed"
AT_ONCE = 2
WAITING = 16
KEPT = 32
DROPPED = f"more than {WAITING} computations were waiting, and this one was asked for least recently. Ask for it again"

Progress = Callable[[float], None]
Compute = Callable[[Progress], tuple[Any, int]]


class Stopped(Exception):
    """The page is closing: a computation ends at its next step."""


@dataclass
class Job:
    """One computation.

    Attributes:
        state: `building`, `ready` or `failed`.
        progress: share that is done, 0 to 1.
        result: what it gave; None until it is ready.
        partial: what it has so far, if it tells.
        error: why it failed, one line.
        size_bytes: memory of the result.
    """

    state: str = BUILDING
    progress: float = 0.0
    result: Any = None
    partial: Any = None
    error: str = ""
    size_bytes: int = 0
    done: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """Computations by key; each runs once, in one of a few threads that do not keep the program from ending.

    Those that wait are begun in the order in which they were first asked for. When too many wait, the one that was
    asked for least recently is dropped, and says so.

    Args:
        limit_bytes: memory of all results together; the oldest are forgotten, and computed again when asked for.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()  # by last use
        self._waiting: dict[Hashable, tuple[Job, Compute]] = {}
        self._threads = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def start(self, key: Hashable, compute: Compute, *, partial: Any = None) -> Job:
        """Return the job of this key; if there is none, begin it.

        Args:
            key: what the computation is of.
            compute: function that takes what it tells its progress to, and returns the result and its bytes.
            partial: what `compute` puts into as it goes.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                self._jobs.move_to_end(key)
                if job.state == FAILED:
                    del self._jobs[key]  # told once; the next one to ask begins it again
                return job
            job = self._jobs[key] = Job(partial=partial)
            self._waiting[key] = job, compute
            if self._threads < AT_ONCE:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True).start()
            elif len(self._waiting) > WAITING:
                self._drop(next(asked for asked in self._jobs if asked in self._waiting), DROPPED)
            self._forget_oldest(job)
        return job

    def forget(self) -> None:
        """Forget all results; what is being computed is begun again when it is next asked for."""
        with self._lock:
            for key in list(self._waiting):
                self._drop(key, "the cache is another than it was")
            self._jobs.clear()

    def wait(self) -> None:
        """Return once all computations that were begun have ended."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.done.wait()

    def stop(self) -> None:
        """Let all computations end at their next step."""
        self._stopping.set()

    def _work(self) -> None:
        """Run what waits, one after the other, until nothing does."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                job, compute = self._waiting.pop(next(iter(self._waiting)))
            self._run(job, compute)

    def _run(self, job: Job, compute: Compute) -> None:
        def tell(progress: float) -> None:
            if self._stopping.is_set():
                raise Stopped
            job.progress = min(1.0, progress)

        try:
            tell(0.0)
            job.result, job.size_bytes = compute(tell)
            job.progress, job.state = 1.0, READY
            with self._lock:
                self._forget_oldest(job)
        except Stopped:
            job.error, job.state = "the page is closing", FAILED
        except CodistillError as error:
            job.error, job.state = str(error), FAILED
        except Exception as error:  # a thread has nobody else to tell
            job.error, job.state = f"{type(error).__name__}: {' '.join(str(error).split())}", FAILED
        finally:
            job.done.set()

    def _drop(self, key: Hashable, reason: str) -> None:
        job, _ = self._waiting.pop(key)
        job.error, job.state = reason, FAILED
        job.done.set()

    def _forget_oldest(self, newest: Job) -> None:
        ended = [(key, job) for key, job in self._jobs.items() if job.state != BUILDING and job is not newest]
        used = newest.size_bytes + sum(job.size_bytes for _, job in ended)
        while ended and (used > self._limit_bytes or len(ended) >= KEPT):
            key, oldest = ended.pop(0)
            used -= oldest.size_bytes
            del self._jobs[key]
