"""Sequences of contiguous buffers, as vectored reads and writes take them."""

from collections.abc import Sequence
from typing import Any


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
