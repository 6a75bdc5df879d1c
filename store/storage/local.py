"""Storage on a POSIX file system."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from store import errors
from store.common.regular_files import open_regular
from store.storage import publish
from store.storage.base import Entry, Sink, Storage
from store.storage.open_files import (
    MAX_BUFFERS,
    NO_DESCRIPTORS,
    DescriptorBudget,
    OpenFile,
    OpenFiles,
    advance,
    process_budget,
    total_bytes,
)

READ_THREADS = 4
CALL_BYTES = 512 * 2**10  # more would leave the processor's cache before being checked
SYNC_EVERY_BYTES = 16 * 2**20  # so that the disk is busy while rows are being made


class LocalStorage(Storage):
    """Objects are files below a directory."""

    def __init__(self, root: Path, *, budget: DescriptorBudget | None = None, read_threads: int = READ_THREADS) -> None:
        self.root = root
        self.location = str(root)
        self.read_threads = read_threads
        self.call_bytes = CALL_BYTES
        self._budget = process_budget() if budget is None else budget
        self._files = OpenFiles(root, self._budget)

    def read(self, key: str, start: int = 0, *, limit: int | None = None) -> bytes:
        with self._open_binary(key) as file:
            if limit is not None and os.fstat(file.fileno()).st_size - start > limit:
                raise self.too_large(key, limit)
            file.seek(start)
            return file.read()

    def read_last(self, key: str, length: int) -> bytes:
        with self._open_binary(key) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - length))
            return file.read()

    def open_object(self, key: str) -> AbstractContextManager[OpenFile]:
        return self._files.get(key)

    def arrow_file(self, key: str) -> pa.NativeFile:
        self._open_binary(key).close()  # refuses what is not a regular file, which would be waited for
        return self._budget.run(lambda: pa.OSFile(str(self.root / key)))

    def size(self, key: str) -> int:
        return (self.root / key).stat().st_size

    def exists(self, key: str) -> bool:
        return (self.root / key).exists()

    def list_objects(self, prefix: str) -> Iterator[Entry]:
        try:
            entries = self._budget.run(lambda: os.scandir(self.root / prefix))
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if entry.is_file():
                    yield Entry(entry.name, entry.stat().st_size)

    def list_directories(self, prefix: str) -> Iterator[str]:
        try:
            entries = self._budget.run(lambda: os.scandir(self.root / prefix))
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            yield from (entry.name for entry in entries if entry.is_dir())

    def create(self, key: str) -> Sink:
        return FileSink(self.root / key, replacing=False)

    def create_replacement(self, key: str) -> Sink:
        return FileSink(self.root / key, replacing=True)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if (self.root / key).exists():
            return False
        return _put(self.create(key), data)

    def replace(self, key: str, data: bytes) -> None:
        _put(self.create_replacement(key), data)

    def move(self, key: str, to: str) -> None:
        target = self.root / to
        publish.make_directories(target.parent)
        os.rename(self.root / key, target)
        publish.sync_directory(target.parent)
        publish.sync_directory((self.root / key).parent)
        self._files.forget(key)

    def delete(self, key: str) -> None:
        path = self.root / key
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            publish.sync_directory(path.parent)
        self._files.forget(key)

    def delete_all(self, prefix: str, *, documents: bool = True) -> None:
        self._refuse_outside(prefix)
        for directory, names in self._walk(prefix, topdown=False):
            for name in sorted(names, key=lambda name: (name == "zarr.json", name)):
                if name == "zarr.json" and not documents:
                    continue
                path = Path(directory, name)
                path.unlink(missing_ok=True)
                self._files.forget(path.relative_to(self.root).as_posix())
            if documents:
                self._remove_directory(Path(directory))

    def _refuse_outside(self, prefix: str) -> None:
        root, path = os.path.realpath(self.root), os.path.realpath(self.root / prefix)
        if os.path.commonpath((root, path)) != root or path == root:
            message = f"'{prefix}' leads to '{path}', which is not in the cache: nothing is deleted there"
            raise errors.RefusedFile("outside the root", message)

    def _remove_directory(self, directory: Path) -> None:
        """Remove a directory that was emptied, with the links to directories that it may hold."""
        for path in directory.iterdir():
            if path.is_symlink():  # never what it leads to
                path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process deletes too
            directory.rmdir()
        publish.sync_directory(directory.parent)

    def sweep(self, prefix: str = "") -> list[str]:
        folders = [Path(folder) for folder, _ in self._walk(prefix, topdown=True)]
        removed = [folder / name for folder in folders for name in publish.sweep(folder)]
        return [path.relative_to(self.root).as_posix() for path in removed]

    def _open_binary(self, key: str) -> BinaryIO:
        try:
            return self._budget.run(lambda: open_regular(self.root / key))
        except errors.RefusedFile as error:
            raise errors.RefusedFile(error.reason_kind, f"'{key}' below {self.location} is {error.details}") from None

    def _walk(self, prefix: str, *, topdown: bool) -> list[tuple[str, list[str]]]:
        walk = partial(os.walk, self.root / prefix, topdown=topdown, onerror=_raise_shortage)
        return self._budget.run(lambda: [(directory, names) for directory, _, names in walk()])


def _raise_shortage(error: OSError) -> None:
    if error.errno in NO_DESCRIPTORS:
        raise error  # os.walk would take a folder that cannot be opened for an empty one


def _put(sink: Sink, data: bytes) -> bool:
    try:
        sink.write([data], 0)
        return sink.publish()
    finally:
        sink.discard()


class FileSink(Sink):
    """A file under a temporary name; a thread syncs what is written while more is being computed."""

    def __init__(self, final: Path, *, replacing: bool) -> None:
        publish.make_directories(final.parent)
        self._final = final
        self._replacing = replacing
        self._temporary: Path | None = publish.temporary_path(final)
        self._fd = publish.open_descriptor(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        self._unsynced_bytes = 0
        self._syncer: ThreadPoolExecutor | None = None
        self._syncing: Future[None] | None = None

    def write(self, buffers: Sequence[Any], offset: int) -> None:
        left: Sequence[Any] = buffers
        size = total_bytes(buffers)
        done = 0
        while done < size:
            written = os.pwritev(self._fd, left[:MAX_BUFFERS], offset + done)
            done += written
            left = advance(left, written) if done < size else ()
        self._unsynced_bytes += size
        if self._unsynced_bytes >= SYNC_EVERY_BYTES and (self._syncing is None or self._syncing.done()):
            self._start_sync()

    def undo_last_write(self, offset: int) -> None:
        os.ftruncate(self._fd, offset)

    def publish(self) -> bool:
        if self._temporary is None:
            return False
        self._finish_sync()
        os.fsync(self._fd)
        self._close()
        temporary, self._temporary = self._temporary, None
        if self._replacing:
            publish.replace(temporary, self._final)
            return True
        return publish.publish(temporary, self._final)

    def discard(self) -> None:
        self._close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None

    def _start_sync(self) -> None:
        self._finish_sync()
        if self._syncer is None:
            self._syncer = ThreadPoolExecutor(1, thread_name_prefix="codistill-sync")
        self._syncing = self._syncer.submit(os.fdatasync, self._fd)
        self._unsynced_bytes = 0

    def _finish_sync(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            syncing.result()

    def _close(self) -> None:
        if self._syncer is not None:
            self._syncer.shutdown(wait=True)
            self._syncer = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
