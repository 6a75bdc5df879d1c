"""Memory for batches: shared with the main process in a DataLoader's worker, else used again once a batch is gone."""

import sys
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

KEPT = 4  # pieces that may be used again
OWN_REFERENCES = 3  # of an array: the list, the loop's variable, the argument of getrefcount


class BatchMemory:
    """Gives pieces of host memory; fresh pages cost as much as reading them full, so pieces are used again."""

    def __init__(self) -> None:
        self._pieces: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> Tensor:
        """Return uint8 memory (size_bytes,) that nobody else uses, not initialised."""
        if get_worker_info() is not None:
            return shared_memory(size_bytes)
        with self._lock:
            for piece in self._pieces:
                # Every tensor in the piece refers to it, so what is not referred to is free.
                if piece.nbytes == size_bytes and sys.getrefcount(piece) <= OWN_REFERENCES:
                    return torch.from_numpy(piece)
            new = np.empty(size_bytes, np.uint8)
            self._pieces = [*self._pieces, new][-KEPT:]
            return torch.from_numpy(new)


def shared_memory(size_bytes: int) -> Tensor:
    """Return uint8 memory that travels to another process without a copy, as torch's own collate makes it."""
    new_shared: Any = torch.UntypedStorage._new_shared  # untyped in torch
    storage = new_shared(size_bytes, device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage)
