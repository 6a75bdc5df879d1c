"""Local processes of a job can be called by nobody else on the machine, and open no port but for that."""

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import dask
import psutil
import pytest
from distributed import Client, SpecCluster

from extract.job.local_cluster import local_cluster
from tests.extract.dask_children import PATIENT


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    forking = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(PATIENT | forking), local_cluster(workers=1, threads=2) as cluster:
        yield cluster


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    connections = process.net_connections(kind="inet")
    return {(entry.laddr.ip, entry.laddr.port) for entry in connections if entry.status == psutil.CONN_LISTEN}


def address_of(uri: str) -> tuple[str, int]:
    parts = urlsplit(uri)
    assert parts.scheme == "tls"
    return str(parts.hostname), int(parts.port or 0)


def test_every_open_port_is_encrypted_and_asks_for_the_key_of_the_job(cluster: SpecCluster) -> None:
    with Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
        workers = client.scheduler_info()["workers"]
        assert client.nthreads() == dict.fromkeys(workers, 2)
    nannies = [worker["nanny"] for worker in workers.values()]
    known = {address_of(uri) for uri in [cluster.scheduler_address, *workers, *nannies]}
    this_process = psutil.Process()
    children = [psutil.Process(nanny.pid) for nanny in cluster.workers.values()]
    assert listening(children[0]) == {address_of(uri) for uri in workers}
    assert known <= listening(this_process) | listening(children[0])
    assert {host for host, _ in known} == {"127.0.0.1"}
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    stranger.maximum_version = ssl.TLSVersion.TLSv1_2  # in which a handshake without a certificate fails at once
    for address in known:
        with socket.create_connection(address) as connection, pytest.raises((ssl.SSLError, ConnectionError)):
            stranger.wrap_socket(connection)
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /info HTTP/1.0\r\n\r\n")
            assert b"HTTP" not in received(connection)


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_no_port_serves_web_pages(cluster: SpecCluster) -> None:
    assert cluster.scheduler.services == {}
    with Client(cluster) as client:
        services = client.run_on_scheduler(lambda dask_scheduler: dict(dask_scheduler.services))
        assert services == {}
        assert all(not worker["services"] for worker in client.scheduler_info()["workers"].values())
