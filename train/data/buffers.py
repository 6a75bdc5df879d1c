"""Memory of a batch, in one piece, and the stream that copies it from the host to a GPU.

Shapes: B images of the rank's batch, H W pixels, N tokens (prefix and patches), K stored patches, C channels.
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
from train.data.mixture import CachedForm

ALIGNMENT_BYTES = 4096  # of each array in its batch

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


ROW_NUMBERS = "/rows"  # beside the arrays that are named by a teacher, whose names have no slash


def codes_of(teacher: str) -> str:
    """Return the name of the array of a teacher's codes."""
    return f"{teacher}/codes"


def patches_of(teacher: str) -> str:
    """Return the name of the array of the patches that a teacher's codes hold."""
    return f"{teacher}/patches"


def batch_shapes(
    teachers: Mapping[str, TeacherInfo],
    *,
    image_size: int,
    batch: int,
    forms: Mapping[str, CachedForm] | None = None,
) -> Shapes:
    """Return shape and dtype of each array of a batch.

    They are the pixels (B, H, W, 3); the tokens (B, N, C) of each teacher that has float16 ones; the codes
    (B, row bytes) of each that has codes, and the numbers of the patches that these hold (B, K) if they do not hold
    all; and the row numbers (B,) if there are codes.

    Args:
        teachers: by name.
        image_size: side of the stored pixels, px.
        batch: number of images B.
        forms: forms of each teacher's tokens in the buffers; None means float16.
    """
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {PIXELS: ((batch, image_size, image_size, 3), torch.uint8)}
    for name, teacher in teachers.items():
        patches = teacher.patch_grid[0] * teacher.patch_grid[1]
        form = forms[name] if forms else None
        if form is None or form.tokens:
            shapes[name] = ((batch, teacher.prefix_tokens + patches, teacher.channels), torch.float16)
        if form is not None and form.code is not None:
            row_bytes = form.code.row_bytes(teacher.prefix_tokens, patches)
            shapes[codes_of(name)] = ((batch, row_bytes), torch.uint8)
            if form.code.subset is not None:
                shapes[patches_of(name)] = ((batch, form.code.stored_patches(patches)), torch.int32)
            shapes[ROW_NUMBERS] = ((batch,), torch.int64)
    return shapes


def row_bytes(
    teachers: Mapping[str, TeacherInfo], *, image_size: int, forms: Mapping[str, CachedForm] | None = None
) -> int:
    """Return the bytes of one row with the tokens of all teachers; arguments as for `batch_shapes`."""
    shapes = batch_shapes(teachers, image_size=image_size, batch=1, forms=forms)
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
            if not _bytes(shape, dtype):  # an empty piece of memory may have no strides to view it by
                arrays[name] = memory.new_empty(shape, dtype=dtype)
                continue
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


def to_device(values: "np.ndarray[Any, np.dtype[Any]]", device: torch.device) -> Tensor:
    """Copy a small array to the device without waiting for the device's other work."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize
