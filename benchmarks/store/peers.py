"""Interfaces of the compared readers and writers, and their limits: plain system calls on the same bytes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

import store
from benchmarks.store.rows import Buffers, Rows
from store.format.layout import CHECKSUM_BYTES, ShardLayout

Order = Literal["random", "sequential"]
RowNumbers = npt.NDArray[np.int64]
THREADS = 4


class Writer(ABC):
    """A format of rows on disk.

    Attributes:
        name: name in the report and of the folder.
        modules: modules that must be installed.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()

    def prepare(self, folder: Path, rows: Rows) -> None:
        """Create the folder and everything that does not depend on the number of rows; not timed."""
        folder.mkdir(parents=True)

    @abstractmethod
    def write(self, folder: Path, rows: Rows) -> None:
        """Write all rows into a prepared folder, durably; this is timed."""


class Reader(ABC):
    """A reader of rows, used as its documentation says and as fast as we could get it in one process.

    Attributes:
        name: name in the report.
        format: name of the `Writer` whose files it reads.
        how: description of how it reads a batch, for the report.
    """

    name: str
    format: str
    how: str
    modules: tuple[str, ...] = ()

    @abstractmethod
    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        """Get ready to read batches into `out`."""

    @abstractmethod
    def read(self, wanted: RowNumbers) -> Sequence[int] | RowNumbers:
        """Fill `out` with a batch of rows.

        Returns:
            The rows that `out` now holds: those wanted, or the next ones of a format without random access.
        """

    @abstractmethod
    def close(self) -> None:
        """Close files and mappings."""


def missing_modules(modules: Sequence[str]) -> list[str]:
    """Return the modules that are not installed."""
    return [module for module in modules if find_spec(module) is None]


class SequentialFiles(Writer):
    """The limit of writing: the bytes of the rows and their checksums, one file a shard, then fsync."""

    name = "sequential write + fsync"

    def write(self, folder: Path, rows: Rows) -> None:
        checksum = bytes(CHECKSUM_BYTES)
        for name in rows.names:
            for number, shard in enumerate(rows.shards()):
                fd = os.open(folder / f"{name}.{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                for row in shard:
                    data = rows.data(name, row)
                    if os.writev(fd, [data, checksum]) != len(data) + CHECKSUM_BYTES:
                        raise OSError("the disk is full")
                os.fsync(fd)
                os.close(fd)


class RawReader(Reader):
    """The limit of reading: one `preadv` a row at a known offset, from files that are open already."""

    format = "codistill"

    def __init__(self, threads: int) -> None:
        self.name = f"preadv, {threads} thread{'s' if threads > 1 else ''}"
        self.how = f"os.preadv of each row into its buffer, {threads} thread{'s' if threads > 1 else ''}"
        self._threads = threads

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        dataset = next(iter(store.open(folder)))
        self._shard_rows = rows.shard_rows
        self._files: dict[str, list[int]] = {}
        self._strides: dict[str, int] = {}
        self._buffers = {name: list(out[name].reshape(len(out[name]), -1).view(np.uint8)) for name in rows.names}
        for name in rows.names:
            node = dataset.array(name)
            assert isinstance(node.layout, ShardLayout)
            keys = [folder / node.shard_key(shard) for shard in range(dataset.shards)]
            self._files[name] = [os.open(key, os.O_RDONLY) for key in keys]
            self._strides[name] = node.layout.stride
        self._pool = ThreadPoolExecutor(self._threads)

    def read(self, wanted: RowNumbers) -> RowNumbers:
        numbers = wanted.tolist()
        calls = [
            (files[row // self._shard_rows], buffer, row % self._shard_rows * stride)
            for name, files in self._files.items()
            for stride in [self._strides[name]]
            for row, buffer in zip(numbers, self._buffers[name], strict=True)
        ]
        if self._threads == 1:
            _preadv(calls)
        else:
            for _ in self._pool.map(_preadv, [calls[part :: self._threads] for part in range(self._threads)]):
                pass
        return wanted

    def close(self) -> None:
        self._pool.shutdown()
        for files in self._files.values():
            for fd in files:
                os.close(fd)


def _preadv(calls: Sequence[tuple[int, Any, int]]) -> None:
    for fd, buffer, offset in calls:
        if os.preadv(fd, [buffer], offset) != buffer.nbytes:
            raise OSError("cut short")
