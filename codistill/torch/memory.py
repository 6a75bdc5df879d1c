"""Memory for batches, used again once a batch is gone: fresh pages can cost more than reading a batch into them.

In a worker of a DataLoader it is shared with the main process. The first byte of a shared piece says whether that
process still has it; the worker sets it when a batch is sent, the main process clears it when the last tensor of the
batch is gone.
"""

import functools
import itertools
import multiprocessing
import os
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

KEPT = 8  # pieces of a process that may be used again
HEADER_BYTES = 4096  # before the batch in a shared piece, so that the batch begins on a page
OWN_REFERENCES = 2  # of an array that no tensor uses: the piece's, and the argument of getrefcount

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(kw_only=True, eq=False)
class Piece:
    """Memory of one batch.

    Attributes:
        array: uint8, the memory; every tensor in it refers to this object.
        shared: the whole piece in shared memory, header included; None where it is not shared.
        number: pieces of a process are numbered as they are made.
        known: whether the other process has mapped it.
    """

    array: Bytes
    shared: Tensor | None = None
    number: int = 0
    known: bool = False

    @property
    def free(self) -> bool:
        """True if no tensor of this process and no other process uses it."""
        sent = self.shared is not None and bool(self.shared[0])
        return not sent and sys.getrefcount(self.array) <= OWN_REFERENCES

    def send(self) -> "SentPiece":
        """Return what to send to the main process, which then has it until it is done."""
        assert self.shared is not None
        self.shared[0] = 1
        first = not self.known
        self.known = True
        return SentPiece(worker=os.getpid(), number=self.number, shared=self.shared if first else None)


@dataclass(frozen=True, kw_only=True)
class SentPiece:
    """A piece on its way to the main process.

    Attributes:
        worker: process id of the worker.
        number: number of the piece among those of the worker.
        shared: the whole piece, the first time that it is sent; mapping it again would cost a fault a page.
    """

    worker: int
    number: int
    shared: Tensor | None


class BatchMemory:
    """Gives pieces of host memory; may be used from several threads, and by one process alone."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> tuple[Tensor, Piece]:
        """Return uint8 memory (size_bytes,) that nothing else uses, not initialised, and the piece that it is of."""
        with self._lock:
            for piece in self._pieces:
                if piece.array.nbytes == size_bytes and piece.free:
                    return torch.from_numpy(piece.array), piece
            if get_worker_info() is None:
                new = Piece(array=np.empty(size_bytes, np.uint8))
            else:
                new = _shared(size_bytes, number=next(self._numbers))
            self._pieces = [*self._pieces, new][-KEPT:]
            return torch.from_numpy(new.array), new


class MappedPieces:
    """Shared pieces of workers that this process has mapped; those of a worker are dropped with its `Process`."""

    def __init__(self) -> None:
        self._by_worker: dict[int, dict[int, Tensor]] = {}
        self._lock = threading.Lock()

    def whole(self, sent: SentPiece) -> Tensor:
        """Return the memory of a piece, header included."""
        with self._lock:
            if sent.shared is None:
                return self._by_worker[sent.worker][sent.number]
            if sent.number == 0:  # a new worker; an earlier one may have had its process id
                self._by_worker[sent.worker] = {}
                self._drop_with_process(sent.worker)
            pieces = self._by_worker.setdefault(sent.worker, {})
            pieces[sent.number] = sent.shared
            pieces.pop(sent.number - KEPT, None)  # the worker has dropped it
            return sent.shared

    def _drop_with_process(self, worker: int) -> None:
        for process in multiprocessing.active_children():
            if process.pid == worker:
                weakref.finalize(process, self._drop, worker, self._by_worker[worker]).atexit = False

    def _drop(self, worker: int, pieces: dict[int, Tensor]) -> None:
        pieces.clear()
        if self._by_worker.get(worker) is pieces:  # else another worker has its process id by now
            del self._by_worker[worker]


@functools.cache
def mapped_pieces() -> MappedPieces:
    """Return the mapped pieces of this process, made at the first call."""
    return MappedPieces()


def received(sent: SentPiece) -> Tensor:
    """Return the memory of a batch that a worker sent; the worker is told when its last tensor is gone."""
    whole: Bytes = mapped_pieces().whole(sent).numpy()
    array = whole[HEADER_BYTES:]
    weakref.finalize(array, _give_back, whole).atexit = False
    return torch.from_numpy(array)


def _give_back(whole: Bytes) -> None:
    whole[0] = 0


def _shared(size_bytes: int, *, number: int) -> Piece:
    """Return a piece that travels to another process without a copy, as the batches of torch's own collate do."""
    new_shared: Any = torch.UntypedStorage._new_shared  # untyped in torch
    whole = torch.empty(0, dtype=torch.uint8).set_(new_shared(HEADER_BYTES + size_bytes, device="cpu"))
    whole[0] = 0
    return Piece(array=whole.numpy()[HEADER_BYTES:], shared=whole, number=number)
