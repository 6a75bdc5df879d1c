"""Computations in the background that tell how far they are; their results stay, a few at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from store.errors import CodistillError

BUILDING, READY, FAILED = "building", "ready", "failed"
AT_ONCE = 2
KEPT = 32

Progress = Callable[[float], None]


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
    """Computations by key; each runs once, in a thread that does not keep the program from ending.

    Args:
        limit_bytes: memory of all results together; the oldest are forgotten, and computed again when asked for.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._stopping = threading.Event()

    def start(self, key: Hashable, compute: Callable[[Progress], tuple[Any, int]], *, partial: Any = None) -> Job:
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
                if job.state != FAILED:
                    return job
                del self._jobs[key]  # told once; the next one to ask begins it again
                return job
            job = self._jobs[key] = Job(partial=partial)
        threading.Thread(target=self._run, args=(job, compute), daemon=True).start()
        return job

    def forget(self) -> None:
        """Forget all results; what is being computed is begun again when it is next asked for."""
        with self._lock:
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

    def _run(self, job: Job, compute: Callable[[Progress], tuple[Any, int]]) -> None:
        def tell(progress: float) -> None:
            if self._stopping.is_set():
                raise Stopped
            job.progress = min(1.0, progress)

        try:
            with self._slots:
                tell(0.0)
                job.result, job.size_bytes = compute(tell)
            job.progress, job.state = 1.0, READY
            self._forget_oldest(job)
        except Stopped:
            job.state, job.error = FAILED, "the page is closing"
        except CodistillError as error:
            job.state, job.error = FAILED, str(error)
        except Exception as error:  # a thread has nobody else to tell
            job.state, job.error = FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            job.done.set()

    def _forget_oldest(self, newest: Job) -> None:
        with self._lock:
            ready = [(key, job) for key, job in self._jobs.items() if job.state == READY and job is not newest]
            used = newest.size_bytes + sum(job.size_bytes for _, job in ready)
            while ready and (used > self._limit_bytes or len(ready) >= KEPT):
                key, oldest = ready.pop(0)
                used -= oldest.size_bytes
                del self._jobs[key]
