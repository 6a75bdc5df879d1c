"""Memory for batches, used again once a batch is gone: fresh pages can cost more than reading a batch into them.

In a worker of a DataLoader it is shared with the main process. The first byte of a shared piece says whether that
process still has it; the worker sets it when a batch is sent, the main process clears it when the last tensor of the
batch is gone.
"""

import sys
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

KEPT = 8  # pieces that may be used again
HEADER_BYTES = 4096  # before the batch in a shared piece, so that the batch begins on a page
OWN_REFERENCES = 2  # of an array that no tensor uses: the piece's, and the argument of getrefcount

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Memory of one batch.

    Attributes:
        array: uint8, the memory; every tensor in it refers to this object.
        shared: the whole piece in shared memory, header included; None where it is not shared.
    """

    array: Bytes
    shared: Tensor | None = None

    @property
    def free(self) -> bool:
        """True if no tensor of this process and no other process uses it."""
        sent = self.shared is not None and bool(self.shared[0])
        return not sent and sys.getrefcount(self.array) <= OWN_REFERENCES

    def send(self) -> Tensor:
        """Return what to send to another process, which then has it until it is done."""
        assert self.shared is not None
        self.shared[0] = 1
        return self.shared


class BatchMemory:
    """Gives pieces of host memory; may be used from several threads, and by one process alone."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> tuple[Tensor, Piece]:
        """Return uint8 memory (size_bytes,) that nothing else uses, not initialised, and the piece that it is of."""
        with self._lock:
            for piece in self._pieces:
                if piece.array.nbytes == size_bytes and piece.free:
                    return torch.from_numpy(piece.array), piece
            new = _shared(size_bytes) if get_worker_info() is not None else Piece(array=np.empty(size_bytes, np.uint8))
            self._pieces = [*self._pieces, new][-KEPT:]
            return torch.from_numpy(new.array), new


def received(shared: Tensor) -> Tensor:
    """Return the memory of a batch that another process sent; that process is told when its last tensor is gone."""
    whole: Bytes = shared.numpy()
    array = whole[HEADER_BYTES:]
    weakref.finalize(array, _give_back, whole).atexit = False
    return torch.from_numpy(array)


def _give_back(whole: Bytes) -> None:
    whole[0] = 0


def _shared(size_bytes: int) -> Piece:
    """Return a piece that travels to another process without a copy, as the batches of torch's own collate do."""
    new_shared: Any = torch.UntypedStorage._new_shared  # untyped in torch
    whole = torch.empty(0, dtype=torch.uint8).set_(new_shared(HEADER_BYTES + size_bytes, device="cpu"))
    whole[0] = 0
    return Piece(array=whole.numpy()[HEADER_BYTES:], shared=whole)
