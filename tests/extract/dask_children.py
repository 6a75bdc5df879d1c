"""Jobs over Dask in processes of their own, whose workers are killed or held at named calls."""

import os
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import dask
from distributed import Nanny
from distributed import Worker as DaskWorker
from distributed.core import Status

from extract.job import dask_executor
from extract.job.dask_worker import ShardWorkerPlugin
from extract.job.worker import Settings
from tests.points import WRITE, Call, observe

FOREVER = float("inf")
SOON = 5.0
PATIENT = {f"distributed.comm.timeouts.{kind}": "1h" for kind in ("connect", "tcp")}


class Death(NamedTuple):
    """A worker dies when it first is about to make this call for this shard."""

    array: str
    shard: int
    call: str


@dataclass(frozen=True, kw_only=True)
class KillWorkers:
    """Kills the local workers of a job, each death once.

    Args:
        cache: cache of the job.
        deaths: when workers die.
        folder: gets an empty file for each death that came, and a socket.
    """

    cache: Path
    deaths: Sequence[Death]
    folder: Path

    def __call__(self) -> None:
        """Prepare the process of the job, which starts the workers."""
        wait_without_limit()
        # Connecting to a dead worker is tried until this time is over: it delays the job and decides nothing.
        dask.config.set({"distributed.comm.timeouts.connect": f"{SOON}s"})
        dask_executor.NO_WORKER_SECONDS = SOON  # a job that Dask leaves without workers ends, and the next goes on
        (self.folder / "socket").unlink(missing_ok=True)
        replaceable: dict[int, threading.Event] = {}
        instantiate = Nanny.instantiate

        async def tell(nanny: Nanny) -> Status:
            status = await instantiate(nanny)
            replaceable.setdefault(nanny.pid, threading.Event()).set()
            return status

        def kill() -> None:
            while True:
                pid = next_pid(listener)
                replaceable.setdefault(pid, threading.Event()).wait()
                os.kill(pid, signal.SIGKILL)

        listener = listen(self.folder / "socket")
        # Dask does not replace a worker that dies before its nanny has heard that it runs.
        Nanny.instantiate = tell
        threading.Thread(target=kill, daemon=True).start()
        dask_executor.ShardWorkerPlugin = partial(MortalPlugin, plan=self)  # type: ignore[misc]


class MortalPlugin(ShardWorkerPlugin):
    """Plugin of workers that are killed by plan."""

    def __init__(self, settings: Settings, *, local: bool, plan: KillWorkers) -> None:
        super().__init__(settings, local=local)
        self._plan = plan

    def setup(self, worker: DaskWorker) -> None:
        """Begin to watch the calls of the worker's process."""
        super().setup(worker)
        observe(self._plan.cache, self._die_if_planned)

    def _die_if_planned(self, call: Call) -> None:
        for death in self._plan.deaths:
            if call.name == death.call and f"/{death.array}/c.{death.shard}." in call.path:
                try:
                    (self._plan.folder / "-".join(map(str, death))).touch(exist_ok=False)
                except FileExistsError:
                    return
                if call.name == WRITE:
                    call.half()
                report(self._plan.folder / "socket")
                threading.Event().wait()  # to be killed


@dataclass(frozen=True, kw_only=True)
class HoldWorkers:
    """Holds all threads of the local workers in the middle of a shard until the job is stopped.

    Args:
        cache: cache of the job.
        address: socket that hears of each worker that is held.
    """

    cache: Path
    address: Path

    def __call__(self) -> None:
        """Prepare the process of the job, which starts the workers."""
        wait_without_limit()
        dask_executor.ShardWorkerPlugin = partial(HeldPlugin, plan=self)  # type: ignore[misc]


class HeldPlugin(ShardWorkerPlugin):
    """Plugin of workers that are held until the job is stopped."""

    def __init__(self, settings: Settings, *, local: bool, plan: HoldWorkers) -> None:
        super().__init__(settings, local=local)
        self._plan = plan

    def setup(self, worker: DaskWorker) -> None:
        """Begin to watch the calls of the worker's process."""
        super().setup(worker)
        first = threading.Lock()

        def hold(call: Call) -> None:
            if call.name == WRITE:
                if first.acquire(blocking=False):
                    report(self._plan.address)
                self._stopped.wait()

        observe(self._plan.cache, hold)


def wait_without_limit() -> None:
    """Let nothing fail in this process because the machine is slow."""
    dask.config.set(PATIENT)
    dask_executor.NO_WORKER_SECONDS = FOREVER
    dask_executor.STOPPING_SECONDS = FOREVER


def listen(address: Path) -> socket.socket:
    """Open a socket for the reports of workers."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    return listener


def report(address: Path) -> None:
    """Send the number of this process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address))
        connection.sendall(str(os.getpid()).encode())


def next_pid(listener: socket.socket) -> int:
    """Wait for a report and return the number of its process."""
    connection, _ = listener.accept()
    with connection, connection.makefile() as text:
        return int(text.read())
