"""Addresses and clients of object stores: credentials come from the environment, never from a URL."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from store import errors
from store.storage.object_errors import failure_of

if TYPE_CHECKING:
    from obstore.store import MemoryStore, ObjectStore

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN where there is one)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "memory": "nothing",
}
SCHEMES = frozenset(CREDENTIALS)
VARIABLES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "proxy_url", "root_certificate")
CONNECT_TIMEOUT = timedelta(seconds=10)
STALL_TIMEOUT = timedelta(seconds=30)
READ_TIMEOUT = timedelta(minutes=5)
WRITE_TIMEOUT = timedelta(minutes=30)  # a whole shard, in one request


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Retries of requests that failed and may succeed later.

    Attributes:
        requests: times that the client itself repeats a request, on 5xx and broken connections.
        pause: pause before the first of these repetitions; it doubles.
        longest_pause: longest pause.
        rounds: times that all of this is repeated, also on failures that the client does not repeat: truncated bodies,
            uploads whose answer was lost.
    """

    requests: int = 8
    pause: timedelta = field(default=timedelta(milliseconds=100))
    longest_pause: timedelta = field(default=timedelta(seconds=10))
    rounds: int = 4


@dataclass(frozen=True, kw_only=True)
class Address:
    """Place of a cache on an object store.

    Attributes:
        scheme: s3, gs, az or memory.
        container: bucket or container; the name for memory.
        prefix: prefix below the container, without slashes around.
    """

    scheme: str
    container: str
    prefix: str

    @property
    def location(self) -> str:
        """The URL, safe to print."""
        return f"{self.scheme}://{self.container}{'/' if self.prefix else ''}{self.prefix}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse a URL.

        Raises:
            errors.InvalidInput: it carries credentials or a query (it is then not shown), or names no bucket.
        """
        scheme, _, rest = url.partition("://")
        container, _, prefix = rest.strip("/").partition("/")
        if ":" in container or any(sign in rest for sign in "@?#"):
            message = f"a {scheme}:// location (not shown) holds credentials or a query. Give {scheme}://BUCKET/PREFIX"
            raise errors.InvalidInput(f"{message} and set {CREDENTIALS[scheme]} in the environment")
        if not container or any(segment in ("", ".", "..") for segment in rest.strip("/").split("/")):
            raise errors.InvalidInput(f"'{url}' names no bucket. Expected {scheme}://BUCKET/PREFIX")
        if scheme == "memory":
            container, prefix = rest.strip("/"), ""
        return cls(scheme=scheme, container=container, prefix=prefix)


def connect(address: Address, *, retries: Retries, writing: bool) -> "ObjectStore":
    """Return a client of a bucket; nothing is sent yet.

    Args:
        address: address of the cache.
        retries: retries of requests.
        writing: whether requests may take as long as the upload of a shard.

    Raises:
        errors.MissingExtra: obstore is not installed.
        errors.StorageFailed, errors.InvalidInput: the environment does not describe a client.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError as error:
        install = "pip install 'codistill[cloud]'"
        raise errors.MissingExtra(f"{address.scheme}:// locations need obstore. Run: {install}") from error
    if address.scheme == "memory":
        return memory_store(address.container)
    stores: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    options = _client_options(address.scheme, os.environ, writing=writing)
    try:
        store: ObjectStore = stores[address.scheme](
            address.container,
            prefix=address.prefix or None,
            client_options=options,
            retry_config={
                "max_retries": retries.requests,
                "backoff": {"init_backoff": retries.pause, "max_backoff": retries.longest_pause, "base": 2},
            },
        )
    except (BaseError, ValueError) as error:
        failure = failure_of(error)
    else:
        return store
    message = f"{address.location}: cannot make a client: {failure.text}"
    raise errors.StorageFailed(f"{message}. Check the {VARIABLES[address.scheme]}_* variables of the environment")


@cache
def memory_store(name: str) -> "MemoryStore":
    """Return the objects of `memory://name`: one for each name and process, gone with the process."""
    from obstore.store import MemoryStore

    return MemoryStore()


@cache
def first_user_pid() -> int:
    """Return the id of the process that first used an object store; forks get the same id but no working client."""
    return os.getpid()


def _client_options(scheme: str, environment: Mapping[str, str], *, writing: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "timeout": WRITE_TIMEOUT if writing else READ_TIMEOUT,
    }
    if not writing:
        options["read_timeout"] = STALL_TIMEOUT  # not for uploads: it would run while the body is being sent
    for name in CLIENT_OPTIONS:
        value = environment.get(f"{VARIABLES[scheme]}_{name.upper()}")
        if value is not None:
            options[name] = value
    if scheme == "s3" and _is_loopback(environment):
        options["allow_http"] = "true"
    return options


def _is_loopback(environment: Mapping[str, str]) -> bool:
    """Return whether the endpoint is this machine.

    Raises:
        errors.InvalidInput: it is not a plain URL; the client would panic, and quote it.
    """
    variable = next((name for name in ENDPOINTS if environment.get(name)), None)
    if variable is None:
        return False
    try:
        url = urlsplit(environment[variable])
        plain = url.scheme in ("http", "https") and url.hostname and "@" not in url.netloc and url.port != 0
    except ValueError:
        plain = False
    if not plain:
        message = f"{variable} (not shown) is not a plain URL. Expected https://HOST or https://HOST:PORT"
        raise errors.InvalidInput(f"{message}, without credentials")
    try:
        return url.hostname == "localhost" or ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False
