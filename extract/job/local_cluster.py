"""Dask processes of this machine for one job: only who has the job's key can call them, and they serve no web page."""

import logging
from typing import Any

import cryptography.x509  # which Dask imports to make a key, and without which it raises no ModuleNotFoundError  # noqa: F401
from distributed import Nanny, Scheduler, Security, SpecCluster
from distributed import Worker as DaskWorker

LOOPBACK = "127.0.0.1"


def local_cluster(*, workers: int, threads: int) -> SpecCluster:
    """Start a scheduler in this process and workers in processes of their own.

    Whoever can call a Dask scheduler or worker can run any code as its user, and every user of a machine can call its
    loopback ports. Here all connections are encrypted and both sides must show the certificate of a key that is made
    for this job and never written down.

    Args:
        workers: number of processes; each is replaced when it dies.
        threads: shards that a process makes at a time.

    Returns:
        The cluster, a context manager.
    """
    security = Security.temporary()
    shared = {"host": LOOPBACK, "protocol": "tls://", "security": security}
    nanny = {"cls": LocalNanny, "options": {**shared, "nthreads": threads, "memory_limit": None}}
    return SpecCluster(
        scheduler={"cls": SchedulerWithoutPage, "options": {**shared, "dashboard": False}},
        workers=dict.fromkeys(range(workers), nanny),
        security=security,
        silence_logs=logging.WARNING,
    )


class _WithoutPage:
    """Opens no port for Dask's web pages, which it does otherwise even without a dashboard."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Do nothing; called by Dask."""


class SchedulerWithoutPage(_WithoutPage, Scheduler):  # type: ignore[misc]
    """Dask's scheduler without its web pages."""


class WorkerWithoutPage(_WithoutPage, DaskWorker):  # type: ignore[misc]
    """Dask's worker without its web pages."""


class LocalNanny(Nanny):  # type: ignore[misc]
    """Dask's keeper of a worker process."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, worker_class=WorkerWithoutPage, **options)
