"""Storage on object stores, through obstore: ranged reads into the caller's buffers, one conditional put per shard."""

import contextlib
import io
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from store import errors
from store.storage.base import Entry, OpenObject, Sink, Storage
from store.storage.object_client import CREDENTIALS, Address, Retries, connect, first_user_pid
from store.storage.object_errors import Passing, failure_of

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

READ_THREADS = 32  # a request takes tens of milliseconds whatever it fetches
CALL_BYTES = 4 * 2**20
ROUND_PAUSE_S = 0.1
NO_BUCKET_CODES = ("NoSuchBucket", "ContainerNotFound")
WRITER = "writer"

Result = TypeVar("Result")


class ObjectStorage(Storage):
    """Objects below a prefix of a bucket, or of this process's memory.

    An answer is checked for its length, so a body that was cut short is asked for again and never used. Errors are
    `errors.StorageFailed` in our words, with no trace of the client's, which may quote credentials.
    """

    def __init__(self, address: Address, *, retries: Retries | None = None) -> None:
        self.address = address
        self.location = address.location
        self.read_threads = READ_THREADS
        self.call_bytes = CALL_BYTES
        self._retries = retries or Retries()
        self._refuse_fork()
        self.client: ObjectStore = connect(address, retries=self._retries, writing=False)

    def read(self, key: str, start: int = 0, *, limit: int | None = None) -> bytes:
        stop = None if limit is None else start + limit + 1
        data = bytes(self._try(f"reading '{key}'", key, lambda: self._get(key, start, stop)))
        if limit is not None and len(data) > limit:
            raise self.too_large(key, limit)
        return data

    def read_last(self, key: str, length: int) -> bytes:
        def attempt() -> memoryview:
            if self.address.scheme == "az":  # knows no ranges from the end
                return self._get(key, max(0, self._size(key) - length), None)
            return self._get(key, -length, None)

        return bytes(self._try(f"reading '{key}'", key, attempt))

    def read_range(self, key: str, start: int, stop: int) -> memoryview:
        """Return bytes from `start` (included) to `stop` (excluded), fewer only at the end of the object.

        Raises:
            FileNotFoundError: no such object.
        """
        return self._try(f"reading '{key}'", key, lambda: self._get(key, start, stop))

    def open_object(self, key: str) -> AbstractContextManager[OpenObject]:
        return contextlib.nullcontext(ObjectReader(self, key))

    def arrow_file(self, key: str) -> pa.NativeFile:
        return pa.PythonFile(ObjectFile(ObjectReader(self, key), self.size(key)), mode="r")

    def size(self, key: str) -> int:
        return self._try(f"looking up '{key}'", key, lambda: self._size(key))

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def list_objects(self, prefix: str) -> Iterator[Entry]:
        objects, _ = self._list(prefix)
        return iter(objects)

    def list_directories(self, prefix: str) -> Iterator[str]:
        _, directories = self._list(prefix)
        return iter(directories)

    def create(self, key: str) -> Sink:
        return BufferedSink(lambda parts: self._put_if_absent(key, parts))

    def create_replacement(self, key: str) -> Sink:
        return BufferedSink(lambda parts: self._put(key, parts))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return not self.exists(key) and self._put_if_absent(key, [data])

    def replace(self, key: str, data: bytes) -> None:
        self._put(key, [data])

    def move(self, key: str, to: str) -> None:
        import obstore

        self._try(f"copying '{key}'", key, lambda: obstore.copy(self._writing_client, key, to, overwrite=True))
        self.delete(key)

    def delete(self, key: str) -> None:
        import obstore

        with contextlib.suppress(FileNotFoundError):
            self._try(f"deleting '{key}'", key, lambda: obstore.delete(self.client, key))

    def delete_all(self, prefix: str, *, documents: bool = True) -> None:
        import obstore

        def attempt() -> None:
            paths = [entry["path"] for entry in obstore.list(self.client, prefix).collect()]
            try:
                for number, batch in enumerate(_nodes_last(paths)):
                    if number and not documents:
                        return
                    obstore.delete(self.client, batch)
            except FileNotFoundError as error:
                raise Passing("another process is deleting too") from error

        self._try(f"deleting '{prefix}'", prefix, attempt)

    def sweep(self, prefix: str = "") -> list[str]:
        """Return an empty list: a put that was not finished leaves nothing behind."""
        return []

    @cached_property
    def _writing_client(self) -> "ObjectStore":
        return connect(self.address, retries=self._retries, writing=True)

    def _get(self, key: str, start: int, stop: int | None) -> memoryview:
        """Make one attempt at a range; a negative `start` counts from the end."""
        import obstore
        from obstore.exceptions import GenericError

        options: GetOptions = {"range": {"suffix": -start} if start < 0 else {"offset": start}}
        if stop is not None:
            options = {"range": (start, stop)}
        try:
            answer = obstore.get(self.client, key, options=options)
            size, (first, end) = answer.meta["size"], answer.range
            data = memoryview(answer.bytes())
        except GenericError as error:
            if failure_of(error).outside and self._size(key) <= max(0, start):
                return memoryview(b"")
            raise
        wanted = (max(0, size + start if start < 0 else start), size if stop is None else min(stop, size))
        if (first, end) != wanted or len(data) != end - first:
            asked = f"bytes {wanted[0]} to {wanted[1]} asked for"
            raise Passing(f"the answer was cut short: {asked}, {len(data)} from {first} came")
        return data

    def _size(self, key: str) -> int:
        import obstore

        return obstore.head(self.client, key)["size"]

    def _list(self, prefix: str) -> tuple[list[Entry], list[str]]:
        import obstore

        listing = self._try(
            f"listing '{prefix}'", prefix, lambda: obstore.list_with_delimiter(self.client, prefix, return_arrow=False)
        )
        objects = [Entry(meta["path"].rsplit("/", 1)[-1], meta["size"]) for meta in listing["objects"]]
        return objects, [path.rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"]]

    def _put(self, key: str, parts: Sequence[bytes]) -> bool:
        import obstore

        def attempt() -> bool:
            obstore.put(self._writing_client, key, parts, use_multipart=False)
            return True

        return self._try_put(key, attempt)

    def _put_if_absent(self, key: str, parts: Sequence[bytes]) -> bool:
        """Store an object in one request unless there is one; return whether this one is stored.

        The object carries a random mark: when the answer to a put is lost, the mark tells which writer was first.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        mark = secrets.token_hex(8)

        def attempt() -> bool:
            try:
                obstore.put(
                    self._writing_client, key, parts, mode="create", use_multipart=False, attributes={WRITER: mark}
                )
            except AlreadyExistsError:
                return self._mark_of(key) == mark
            return True

        return self._try_put(key, attempt)

    def _mark_of(self, key: str) -> str:
        import obstore

        try:
            return str(obstore.get(self.client, key, options={"head": True}).attributes.get(WRITER, ""))
        except FileNotFoundError:  # S3 says so when it gave up two writers at once, or a deletion came between
            raise Passing("another request was in the way") from None

    def _try_put(self, key: str, attempt: Callable[[], bool]) -> bool:
        try:
            return self._try(f"writing '{key}'", key, attempt)
        except FileNotFoundError:
            pass
        raise self._no_bucket()

    def _no_bucket(self) -> errors.StorageFailed:
        message = f"{self.location}: there is no bucket '{self.address.container}'"
        return errors.StorageFailed(f"{message}. Create it, or check the location and the endpoint")

    def _try(self, doing: str, key: str, attempt: Callable[[], Result]) -> Result:
        """Return the result of `attempt`, tried several times.

        Raises:
            FileNotFoundError: the object is absent.
            errors.StorageFailed: the last attempt failed, or no other attempt can succeed.
        """
        from obstore.exceptions import BaseError

        self._refuse_fork()
        for round_ in range(self._retries.rounds):
            try:
                return attempt()
            except FileNotFoundError:
                failure = None
            except (BaseError, Passing) as error:
                failure = failure_of(error)
            if failure is None or not failure.passing or round_ + 1 == self._retries.rounds:
                break
            time.sleep(ROUND_PAUSE_S * 4**round_)
        if failure is None:  # raised here, so that the client's error is not kept as its context
            raise self.missing(key)
        if any(code in failure.text for code in NO_BUCKET_CODES):  # of a listing; other requests miss the object
            raise self._no_bucket()
        if failure.denied:
            exits = f"Set {CREDENTIALS[self.address.scheme]} in the environment, with access to this bucket"
        elif failure.passing:
            exits = "Run the same command again later: what is stored is whole"
        else:
            exits = "Check bucket, endpoint and region"
        raise errors.StorageFailed(f"{self.location}: {doing} failed: {failure.text}. {exits}")

    def _refuse_fork(self) -> None:
        if first_user_pid() != os.getpid():
            message = f"{self.location}: object stores cannot be used in a forked process once its parent has used one"
            raise errors.StorageFailed(f"{message}. Start processes by 'spawn' or 'forkserver'")


class ObjectReader:
    """Positional reads of one object; safe to use from several threads."""

    def __init__(self, storage: ObjectStorage, key: str) -> None:
        self._storage, self._key = storage, key

    def read_into(self, buffers: Sequence[Any], offset: int, length: int) -> int:
        """Fill `buffers`, `length` bytes in all, from `offset` with one request; return the bytes read.

        Raises:
            FileNotFoundError: no such object.
        """
        if not length:
            return 0
        data = np.frombuffer(self._storage.read_range(self._key, offset, offset + length), np.uint8)
        done = 0
        for buffer in buffers:
            target = np.frombuffer(buffer, np.uint8) if memoryview(buffer).nbytes else data[:0]
            part = data[done : done + len(target)]
            target[: len(part)] = part
            done += len(part)
        return done


class ObjectFile(io.RawIOBase):
    """An object as a file for pyarrow; each read is a request."""

    def __init__(self, reader: ObjectReader, size: int) -> None:
        self._reader, self._size = reader, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._size - self._position)]
        done = self._reader.read_into([view], self._position, len(view))
        self._position += done
        return done


class BufferedSink(Sink):
    """An object collected in memory until one request puts it."""

    def __init__(self, put: Callable[[Sequence[bytes]], bool]) -> None:
        self._put = put
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, buffers: Sequence[Any], offset: int) -> None:
        if offset > self._size:
            self._parts.append(bytes(offset - self._size))
        part = b"".join(buffers)
        self._parts.append(part)
        self._size = offset + len(part)

    def undo_last_write(self, offset: int) -> None:
        self._parts.pop()
        self._size = offset

    def publish(self) -> bool:
        parts, self._parts = self._parts, []
        return self._put(parts)

    def discard(self) -> None:
        self._parts = []


def _nodes_last(paths: Sequence[str]) -> Iterator[list[str]]:
    """Yield batches that may be deleted in any order within: `zarr.json` after everything else, the deepest first."""
    nodes = [path for path in paths if path.rsplit("/", 1)[-1] == "zarr.json"]
    yield sorted(set(paths) - set(nodes))
    for depth in sorted({path.count("/") for path in nodes}, reverse=True):
        yield [path for path in nodes if path.count("/") == depth]
