"""An S3 server on loopback (moto), and in front of it a proxy that fails as networks and servers do.

moto decides If-None-Match by looking and then storing; real S3 decides atomically, so the proxy lets conditional puts
through one at a time. moto does not verify signatures.
"""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

CHUNK_BYTES = 64 * 2**10
BUCKET = "bucket"
KEY_ID, SECRET, TOKEN = "AKIATESTSECRETKEYID", "s3cr3t/ACCESS+key", "t0ken//of==the+session"
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A received request: method, path without the bucket, and the headers in small letters."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(kw_only=True)
class Fault:
    """A fault of the next `times` requests that `matches` accepts.

    Attributes:
        kind: `slow_down` (503 at once), `conflict` (409 at once), `forbidden` (403 that quotes the request,
            as S3 does), `reset` (the connection breaks before anything is stored), `lost` (it breaks after all was
            done), `cut` (it breaks in the middle of the body), `short` (half of the body comes and claims to be all),
            `stall` (nothing is read after the first bytes of the body until `release` is set), `meet` (an answer comes
            only when three such requests are there at once).
        matches: requests that it concerns.
        times: number of requests that it concerns.
        reached: set when a `stall` has begun.
        release: ends it.
        answered: set when the first of these requests has been dealt with.
    """

    kind: str
    matches: Callable[[Request], bool]
    times: int = 1
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(3))


class FaultyServer(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        requests: everything that came in since `forget`.
    """

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.requests: list[Request] = []
        self.conditional = threading.Lock()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, kind: str, method: str, key: str = "", *, times: int = 1) -> Fault:
        """Plan a fault for requests of `method` whose path contains `key`."""
        fault = Fault(kind=kind, matches=lambda got: got.method == method and key in got.path, times=times)
        self._faults.append(fault)
        return fault

    def forget(self) -> None:
        """Forget requests and faults."""
        self.requests, self._faults = [], []

    def take(self, request: Request) -> Fault | None:
        """Note a request and return what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times > 0 and fault.matches(request):
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, key: str = "") -> int:
        """Return how many requests of `method` came in whose path contains `key`."""
        return sum(request.method == method and key in request.path for request in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections are the purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(method=self.command, path=self.path.removeprefix(f"/{BUCKET}/"), headers=headers)
        fault = self.server.take(request)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "meet":
            fault.meeting.wait()
        try:
            if kind == "reset":
                self._break()
            elif kind in ("slow_down", "conflict", "forbidden"):
                self.rfile.read(int(headers.get("content-length", 0)))
                self._refuse(kind)
            elif "if-none-match" in headers:
                with self.server.conditional:
                    self._forward(headers, fault)
            else:
                self._forward(headers, fault)
        finally:
            if fault is not None:
                fault.answered.set()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, headers: dict[str, str], fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(*self.server.upstream)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "connection":
                connection.putheader(name, value)
        connection.endheaders()
        left = int(headers.get("content-length", 0))
        while left:
            data = self.rfile.read(min(left, CHUNK_BYTES))
            if not data:
                connection.close()  # the client died: so does what it was sending
                return
            connection.send(data)
            left -= len(data)
            if fault is not None and fault.kind == "stall":
                fault.reached.set()
                fault.release.wait()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if fault is not None and fault.kind == "lost":
            self._break()
            return
        length = int(response.headers["Content-Length"]) if self.command == "HEAD" else len(body)
        sent = len(body) // 2 if fault is not None and fault.kind in ("cut", "short") else len(body)
        promised = sent if fault is not None and fault.kind == "short" else length
        self.send_response(response.status)
        for name, value in response.headers.items():
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body[:sent])
        if sent != promised and self.command != "HEAD":
            self._break()

    def _refuse(self, kind: str) -> None:
        status, code = {
            "slow_down": (503, "SlowDown"),
            "conflict": (409, "ConditionalRequestConflict"),
            "forbidden": (403, "SignatureDoesNotMatch"),
        }[kind]
        signature = self.headers.get("authorization", "")
        body = f"<Error><Code>{code}</Code><Message>{signature}</Message><Echo>{self.path}</Echo></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _break(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


@dataclass(frozen=True, kw_only=True)
class S3:
    """A server and the location of a cache on it."""

    server: FaultyServer
    location: str

    def download(self, folder: Path) -> None:
        """Copy every object of the cache to a file, asking the server itself with another client than ours."""
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        client = self._client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            for entry in page.get("Contents", []):
                path = folder / entry["Key"].removeprefix(f"{prefix}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, entry["Key"], str(path))

    def keys(self) -> list[str]:
        """Return every key in the bucket, and what uploads are unfinished."""
        client = self._client()
        whole = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        parts = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [entry["Key"] for entry in (*whole, *parts)]

    def _client(self) -> Any:
        host, port = self.server.upstream
        return boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")


def environment(server: FaultyServer) -> dict[str, str]:
    """Return the variables that credentials and endpoint come from."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_ENDPOINT_URL": server.url,
    }


@contextmanager
def serve() -> Iterator[FaultyServer]:
    """Run server and proxy with one empty bucket."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    upstream = moto.get_host_and_port()
    proxy = FaultyServer(upstream)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        make_bucket(upstream)
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
        moto.stop()


def make_bucket(upstream: tuple[str, int]) -> None:
    """Create the bucket, empty."""
    connection = http.client.HTTPConnection(*upstream)
    for method, path in (("POST", "/moto-api/reset"), ("PUT", f"/{BUCKET}")):
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
    connection.close()
