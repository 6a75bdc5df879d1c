"""An S3 server for the tests that need one."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from store.storage import object_client
from tests.store import s3_server
from tests.store.s3_server import S3


@pytest.fixture(scope="session")
def s3_process() -> Iterator[s3_server.FaultyServer]:
    with s3_server.serve() as server:
        yield server


@pytest.fixture
def s3(
    s3_process: s3_server.FaultyServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[S3]:
    """An empty bucket, credentials and endpoint in the environment, no faults planned."""
    s3_server.make_bucket(s3_process.upstream)
    s3_process.forget()
    for name, value in s3_server.environment(s3_process).items():
        monkeypatch.setenv(name, value)
    for limit in ("CONNECT_TIMEOUT", "STALL_TIMEOUT"):  # a busy machine answers late
        monkeypatch.setattr(object_client, limit, timedelta(hours=1))
    yield S3(server=s3_process, location=f"s3://{s3_server.BUCKET}/some/cache")
    s3_process.forget()
