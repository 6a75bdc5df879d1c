"""Open files, a bounded number of them, shared by threads."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_BUFFERS = min(os.sysconf("SC_IOV_MAX"), 1024)


class OpenFile:
    """A file open for positional reads; closed when neither the table nor a reader needs it, or with the cache."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.users = 0
        self.close = weakref.finalize(self, os.close, self.fd)

    def read_into(self, buffers: Sequence[Any], offset: int, length: int) -> int:
        """Fill `buffers` from `offset`; return the bytes read, fewer than `length` only at the end of the file."""
        done = os.preadv(self.fd, buffers if len(buffers) <= MAX_BUFFERS else buffers[:MAX_BUFFERS], offset)
        while 0 < done < length:  # a signal, the 2 GiB limit of one call, or too many buffers
            got = os.preadv(self.fd, advance(buffers, done)[:MAX_BUFFERS], offset + done)
            if not got:
                break
            done += got
        return done


class OpenFiles:
    """The most recently used files, at most `limit` plus those in use."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[Path, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def get(self, path: Path) -> Iterator[OpenFile]:
        """Open `path`, or reuse it; it stays open within the block.

        Raises:
            FileNotFoundError: no such file.
        """
        file = self._acquire(path)
        try:
            yield file
        finally:
            self._release(path, file)

    def forget(self, path: Path) -> None:
        """Close `path` as soon as nobody reads it: its name now means another file, or none."""
        with self._lock:
            file = self._files.pop(path, None)
            if file is not None and file.users == 0:
                file.close()

    def __len__(self) -> int:
        return len(self._files)

    def _acquire(self, path: Path) -> OpenFile:
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                file.users += 1
                self._files.move_to_end(path)
                return file
        opened = OpenFile(path)  # outside the lock: opening can take milliseconds on a network file system
        with self._lock:
            file = self._files.setdefault(path, opened)
            file.users += 1
            self._files.move_to_end(path)
            if file is not opened:
                opened.close()
            self._evict()
        return file

    def _release(self, path: Path, file: OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if file.users == 0 and self._files.get(path) is not file:
                file.close()

    def _evict(self) -> None:
        while len(self._files) > self._limit:
            _, oldest = self._files.popitem(last=False)
            if oldest.users == 0:
                oldest.close()


def total_bytes(buffers: Sequence[Any]) -> int:
    """Return the bytes of all buffers."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def advance(buffers: Sequence[Any], done: int) -> list[memoryview]:
    """Return what is left of `buffers` behind the first `done` bytes, sharing memory."""
    left = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(b"")
        if done < view.nbytes:
            left.append(view[done:])
        done = max(0, done - view.nbytes)
    return left
