"""Memory of a batch, in one piece, and the stream that copies it from the host to a GPU.

Shapes: B images of the rank's batch, H W pixels, N tokens (prefix and patches), C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from store import TeacherInfo
from store.format.schema import PIXELS

ALIGNMENT_BYTES = 4096  # of each array in its batch

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def batch_shapes(teachers: Mapping[str, TeacherInfo], *, image_size: int, batch: int) -> Shapes:
    """Return shape and dtype of each array of a batch: pixels (B, H, W, 3), tokens of each teacher (B, N, C)."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {PIXELS: ((batch, image_size, image_size, 3), torch.uint8)}
    for name, teacher in teachers.items():
        tokens = teacher.prefix_tokens + teacher.patch_grid[0] * teacher.patch_grid[1]
        shapes[name] = ((batch, tokens, teacher.channels), torch.float16)
    return shapes


def row_bytes(teachers: Mapping[str, TeacherInfo], *, image_size: int) -> int:
    """Return the bytes of one row with the tokens of all teachers."""
    shapes = batch_shapes(teachers, image_size=image_size, batch=1)
    return sum(_bytes(shape, dtype) for shape, dtype in shapes.values())


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Positions of the arrays of a batch in one piece of memory, so that one copy takes them to a GPU."""

    shapes: Shapes

    @cached_property
    def begins(self) -> dict[str, int]:
        """First byte of each array."""
        begins, end = {}, 0
        for name, (shape, dtype) in self.shapes.items():
            begins[name] = end
            end += -(-_bytes(shape, dtype) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return begins

    @property
    def bytes(self) -> int:
        """Size of the whole piece of memory."""
        name, (shape, dtype) = list(self.shapes.items())[-1]
        return self.begins[name] + _bytes(shape, dtype)

    def arrays(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the arrays that lie in `memory` (uint8), on its device, without a copy."""
        arrays = {}
        for name, (shape, dtype) in self.shapes.items():
            begin = self.begins[name]
            arrays[name] = memory[begin : begin + _bytes(shape, dtype)].view(dtype).view(shape)
        return arrays


@dataclass(kw_only=True)
class Buffer:
    """Host memory of one batch, used for many batches in turn.

    Attributes:
        memory: uint8, the whole piece.
        layout: positions of the arrays in it.
        arrays: name -> array in `memory`.
        views: the same as NumPy arrays.
        copied: event of the last copy to a GPU; the memory may be overwritten after it.
    """

    memory: Tensor
    layout: BatchLayout
    arrays: dict[str, Tensor] = field(init=False)
    views: dict[str, np.ndarray[Any, np.dtype[Any]]] = field(init=False)
    copied: Any = None

    def __post_init__(self) -> None:
        self.arrays = self.layout.arrays(self.memory)
        self.views = {name: array.numpy() for name, array in self.arrays.items()}


class CopyStream:
    """A CUDA stream that copies batches to the GPU while the GPU computes."""

    def __init__(self, device: torch.device) -> None:
        new_stream: Any = torch.cuda.Stream  # untyped in torch
        self._device, self._stream = device, new_stream(device)

    def memory(self, size_bytes: int) -> Tensor:
        """Return pinned host memory, which the GPU copies from without the processor."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def send(self, memory: Tensor) -> tuple[Tensor, Any]:
        """Start a copy; return the memory on the GPU and the event of its arrival."""
        with torch.cuda.stream(self._stream):
            sent = memory.to(self._device, non_blocking=True)
            return sent, self._stream.record_event()

    def receive(self, sent: Tensor, arrived: Any) -> None:
        """Make the GPU's computation wait for a copy, and keep the memory until it has been used."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(arrived)
        sent.record_stream(stream)


def pinned_bytes(size_bytes: int) -> int:
    """Return the pinned memory that torch allocates for this size: the next power of two."""
    return 1 << (size_bytes - 1).bit_length()


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize
