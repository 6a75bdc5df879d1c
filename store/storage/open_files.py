"""Open files: every storage has its own table of them, and one budget bounds those of all storages of a process.

A process may have few descriptors (`ulimit -n`), and everything in it shares them: sockets, pipes of workers, logs.
The budget takes half of them at most, closes the files used longest ago first, never one that is being read, and
closes more when an open fails because the descriptors have run out elsewhere.
"""

import errno
import functools
import os
import resource
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from store import errors
from store.common.regular_files import open_descriptor

MAX_BUFFERS = min(os.sysconf("SC_IOV_MAX"), 1024)
MAX_OPEN_FILES = 1024  # more would save little: a kept descriptor only saves one open()
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

Result = TypeVar("Result")


class OpenFile:
    """A file open for positional reads."""

    def __init__(self, path: str | Path, *, table: dict[str, "OpenFile"], key: str) -> None:
        self.fd = open_descriptor(path)
        self.readers: list[int] = []  # threads that are reading it now; it stays open as long as there are any
        self.table = table
        self.key = key
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


class DescriptorBudget:
    """Bound of the files that all storages together keep open."""

    def __init__(self, limit: Callable[[], int]) -> None:
        """Bound the open files by `limit()`, asked at every open, plus those that are being read."""
        self._ask_limit = limit
        self._limit = limit()
        self._recent: OrderedDict[OpenFile, None] = OrderedDict()  # used longest ago first
        self._orphans: deque[OpenFile] = deque()  # closed with their storage
        self._opening = 0  # threads that are opening something and do not wait
        self.after_fork()

    def after_fork(self) -> None:
        """Renew the locks in a child process: only the calling thread is left, and others may have held them."""
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._waiting = 0
        self._opening = 0
        this_thread = threading.get_ident()
        for file in self._recent:
            file.readers[:] = [reader for reader in file.readers if reader == this_thread]

    def run(self, call: Callable[[], Result]) -> Result:
        """Return `call()`; while it fails because descriptors run out, close files that nobody reads and try again.

        Raises:
            OSError: too many open files, and none of them is ours to close.
        """
        with self.lock:
            self._opening += 1
        try:
            while True:
                try:
                    return call()
                except OSError as error:
                    if error.errno not in NO_DESCRIPTORS:
                        raise
                    if not self._make_room():
                        raise OSError(error.errno, _advice(error.errno), error.filename) from error
        finally:
            with self.lock:
                self._opening -= 1
                if self._waiting:
                    self._changed.notify_all()

    # The following need `lock`.

    def use(self, file: OpenFile, reader: int) -> None:
        """Count a thread as reading a file of the budget."""
        file.readers.append(reader)
        self._recent.move_to_end(file)

    def add(self, file: OpenFile) -> None:
        """Take a file into the budget, in which others may be closed for it."""
        self._recent[file] = None
        self._limit = self._ask_limit()
        self._evict()

    def release(self, file: OpenFile, reader: int) -> None:
        """Count a thread as not reading a file any more."""
        file.readers.remove(reader)
        if not file.readers:
            if file.table.get(file.key) is not file:
                self._close(file)
            elif len(self._recent) > self._limit:
                self._evict()
            if self._waiting:
                self._changed.notify_all()

    def forget(self, file: OpenFile) -> None:
        """Close a file that left its table, now or as soon as nobody reads it."""
        if not file.readers:
            self._close(file)

    def adopt_orphans(self, table: dict[str, OpenFile]) -> None:
        """Close the files of a storage that is gone; takes no lock: a thread that has it may collect garbage."""
        for file in list(table.values()):
            file.close()
            self._orphans.append(file)

    def _evict(self) -> None:
        self._drop_orphans()
        unused = (file for file in self._recent if not file.readers)
        for file in list(islice(unused, max(0, len(self._recent) - self._limit))):
            self._close(file)

    def _close(self, file: OpenFile) -> None:
        if file.table.get(file.key) is file:
            del file.table[file.key]
        self._recent.pop(file, None)
        file.close()

    def _drop_orphans(self) -> None:
        while self._orphans:
            self._recent.pop(self._orphans.popleft(), None)

    def _make_room(self) -> bool:
        """Close half of the unused files, or wait until a file is unused; False if there is none to wait for."""
        this_thread = threading.get_ident()
        with self._changed:
            while True:
                self._drop_orphans()
                unused = [file for file in self._recent if not file.readers]
                if unused:  # half of them: whoever else ran out of descriptors needs some too
                    for file in unused[: (len(unused) + 1) // 2]:
                        self._close(file)
                    return True
                held = any(this_thread in file.readers for file in self._recent)  # waiting could be for ever
                if held or not (self._recent or self._opening > 1):
                    return False
                self._opening -= 1
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._opening += 1
                    self._waiting -= 1


class OpenFiles:
    """The open files of one storage, within a budget; they are closed with it."""

    def __init__(self, root: Path, budget: DescriptorBudget) -> None:
        self._root = root
        self._budget = budget
        self._files: dict[str, OpenFile] = {}
        weakref.finalize(self, budget.adopt_orphans, self._files)

    def get(self, key: str) -> "Lease":
        """Return a context manager that opens `root/key`, or reuses it; the file stays open within the block.

        Raises:
            FileNotFoundError: no such file, when the block is entered.
        """
        return Lease(self, key)

    def forget(self, key: str) -> None:
        """Close a file as soon as nobody reads it: its name now means another file, or none."""
        with self._budget.lock:
            file = self._files.pop(key, None)
            if file is not None:
                self._budget.forget(file)

    def __len__(self) -> int:
        return len(self._files)

    def acquire(self, key: str, reader: int) -> OpenFile:
        """Return the file, which stays open until `release` with the same reader."""
        budget = self._budget
        with budget.lock:
            file = self._files.get(key)
            if file is not None:
                budget.use(file, reader)
                return file
        return budget.run(lambda: self._open(key, reader))

    def release(self, file: OpenFile, reader: int) -> None:
        """Give back what `acquire` returned."""
        with self._budget.lock:
            self._budget.release(file, reader)

    def _open(self, key: str, reader: int) -> OpenFile:
        try:
            opened = OpenFile(
                self._root / key, table=self._files, key=key
            )  # without the lock: it can take milliseconds
        except errors.RefusedFile as error:
            raise errors.RefusedFile(error.reason_kind, f"'{key}' below {self._root} is {error.details}") from None
        with self._budget.lock:
            file = self._files.setdefault(key, opened)
            if file is not opened:  # another thread was first
                opened.close()
                self._budget.use(file, reader)
            else:
                file.readers.append(reader)
                self._budget.add(file)
        return file


class Lease:
    """A block within which a file is open."""

    __slots__ = ("_file", "_files", "_key", "_reader")

    def __init__(self, files: OpenFiles, key: str) -> None:
        self._files = files
        self._key = key

    def __enter__(self) -> OpenFile:
        self._reader = threading.get_ident()
        self._file = self._files.acquire(self._key, self._reader)
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.release(self._file, self._reader)


@functools.cache
def process_budget() -> DescriptorBudget:
    """Return the budget of this process, made at the first call; a forked child goes on with a copy."""
    budget = DescriptorBudget(process_limit)
    os.register_at_fork(
        before=lambda: budget.lock.acquire(),
        after_in_parent=lambda: budget.lock.release(),
        after_in_child=budget.after_fork,
    )
    return budget


def process_limit() -> int:
    """Return the number of files that storages may keep open: half of what the process may, at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_OPEN_FILES
    return min(MAX_OPEN_FILES, max(1, soft // 2))


def _advice(number: int | None) -> str:
    if number == errno.ENFILE:
        return "too many open files on this machine, none of them unused files of a cache. Close other programs"
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"too many open files: this process may have {soft}, and those are in use. Allow more, for example: "
        f"ulimit -n {max(4096, 4 * soft)}"
    )


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
