"""Storage of objects under one location: the interface that local files and object stores implement.

Keys are POSIX paths below the cache. An object becomes visible whole or not at all.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from store import errors

Location: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    name: str
    size_bytes: int


class OpenObject(Protocol):
    """An object ready for positional reads from several threads."""

    def read_into(self, buffers: Sequence[Any], offset: int, length: int) -> int:
        """Fill contiguous buffers, `length` bytes in all, in turn from `offset`.

        Returns:
            The bytes read, fewer only at the end of the object.
        """
        ...


class Sink(ABC):
    """An object being written: invisible until `publish` returns True."""

    @abstractmethod
    def write(self, buffers: Sequence[Any], offset: int) -> None:
        """Write contiguous buffers one after another at `offset`; offsets grow, gaps read as zeros."""

    @abstractmethod
    def undo_last_write(self, offset: int) -> None:
        """Forget the last `write`, which was at `offset`."""

    @abstractmethod
    def publish(self) -> bool:
        """Make the object durable and visible under its key.

        Returns:
            False if another writer was first; what this one wrote is then discarded.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forget what was written; nothing happens after `publish`."""


class Storage(ABC):
    """Objects under one location.

    Attributes:
        location: path or URL that the user gave, safe to print (no credentials).
        read_threads: useful number of reads in flight.
        call_bytes: size up to which neighbouring rows are read by one call.
    """

    location: str
    read_threads: int
    call_bytes: int

    @abstractmethod
    def read(self, key: str, start: int = 0, *, limit: int | None = None) -> bytes:
        """Return the object from byte `start` to its end.

        Args:
            key: key of the object.
            start: first byte.
            limit: most bytes that may be there, whatever the object's size is; None sets no limit.

        Raises:
            FileNotFoundError: no such object.
            errors.Damaged: there are more than `limit` bytes; they are not read.
        """

    @abstractmethod
    def read_last(self, key: str, length: int) -> bytes:
        """Return the last `length` bytes of the object, all of it if it is shorter.

        Raises:
            FileNotFoundError: no such object.
        """

    @abstractmethod
    def open_object(self, key: str) -> AbstractContextManager[OpenObject]:
        """Open an object for positional reads; opened objects are kept for reuse up to a bound.

        Raises:
            FileNotFoundError: no such object; some storages notice at the first read.
        """

    @abstractmethod
    def arrow_file(self, key: str) -> Any:
        """Open an object as a seekable pyarrow file, so that only the needed part of a table is read.

        Raises:
            FileNotFoundError: no such object.
        """

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: no such object.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""

    @abstractmethod
    def list_objects(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects directly below `prefix`, in no order; none if there is no such prefix."""

    @abstractmethod
    def list_directories(self, prefix: str) -> Iterator[str]:
        """Yield the names of the prefixes directly below `prefix`, in no order."""

    @abstractmethod
    def create(self, key: str) -> Sink:
        """Begin an object that is published only if there is none under `key` by then."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store a small object unless there is one; return whether this one was stored."""

    @abstractmethod
    def replace(self, key: str, data: bytes) -> None:
        """Store a small object in place of any older one, atomically."""

    @abstractmethod
    def create_replacement(self, key: str) -> Sink:
        """Begin an object that takes the place of any older one, atomically. For sealed tables, never for shards."""

    @abstractmethod
    def move(self, key: str, to: str) -> None:
        """Rename an object (to quarantine it).

        Raises:
            FileNotFoundError: no such object.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; nothing happens if there is none."""

    @abstractmethod
    def delete_all(self, prefix: str, *, documents: bool = True) -> None:
        """Delete every object below `prefix`, each `zarr.json` after the objects that it describes.

        Args:
            prefix: key prefix, without a slash at the end.
            documents: delete each `zarr.json` too.
        """

    @abstractmethod
    def sweep(self, prefix: str = "") -> list[str]:
        """Remove what dead writers left anywhere below `prefix`; return the keys removed."""

    def too_large(self, key: str, limit: int) -> errors.Damaged:
        """Return the error for an object with more bytes than it can have."""
        return errors.Damaged(f"'{key}' below {self.location} is larger than it can be: expected at most {limit} bytes")

    def missing(self, key: str) -> FileNotFoundError:
        """Return the error for an absent object."""
        return FileNotFoundError(f"no object '{key}' below {self.location}")
