"""Run a teacher: batches of pixels in, checked float16 tokens out, in batches that fit the device.

Shapes: B batch, H W pixels, T tokens (prefix first, then patches row by row), C channels.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from extract.teachers.base import Teacher, tf32
from extract.teachers.batching import RunBatch
from extract.teachers.encoding import TokenEncoder
from store.errors import JobFailed
from store.format.code_encode import EncodedRow

BATCHES_ON_DEVICE = 2
CPU_BATCH = 8
GPU_BATCH = 64  # keeps a large GPU busy with ViT-L
GPU_LIMIT = 256
FLOAT16_MAX = 65504.0
FLOAT16_OVERFLOW = 65520.0  # from here on rounding gives infinity

Row = TypeVar("Row")


class TeacherRunner:
    """One loaded teacher, shared by threads that make different shards.

    On a CPU each thread computes its own batch. On a GPU one thread at a time starts a batch; while it computes, the
    others read, copy and write. Two batches may be on the device, so that it never waits for a copy, each in its
    thread's own stream, so that waiting for one is not waiting for the other.

    Args:
        name: teacher's name in the cache.
        teacher: loaded teacher, on its device.
        provenance: entries stored in every shard, beside the teacher's own.
    """

    def __init__(self, name: str, teacher: Teacher, *, provenance: Mapping[str, Any]) -> None:
        self.name = name
        self.teacher = teacher
        self.provenance = {**teacher.provenance(), **provenance}
        self._forward_lock = threading.Lock()
        self._device_slots = threading.BoundedSemaphore(BATCHES_ON_DEVICE)
        self._thread = threading.local()
        self._first_batch_done = False
        self._cuda = teacher.device.type == "cuda"
        self._own_tf32 = self._cuda and teacher.request.tf32

    def tokens(self, pixels: np.ndarray) -> Sequence[np.ndarray | str]:
        """Compute the tokens of a batch.

        Args:
            pixels: uint8 (B, H, W, 3), B at least 1.

        Returns:
            For each row float16 (T, C), or the reason why its tokens cannot be stored.

        Raises:
            JobFailed: the device's memory does not suffice.
        """
        return self._results(pixels, self._copied)

    def encoded(self, pixels: np.ndarray, encoder: TokenEncoder, rows: Sequence[int]) -> Sequence[EncodedRow | str]:
        """Compute the tokens of a batch and encode them on their device.

        Args:
            pixels: uint8 (B, H, W, 3), B at least 1.
            encoder: encoder of the array's code for this device.
            rows: row numbers, B of them.

        Returns:
            For each row its codes, or the reason why its tokens cannot be stored.

        Raises:
            JobFailed: the device's memory does not suffice.
        """

        def encode(tokens: Tensor, storable: Sequence[int]) -> Sequence[EncodedRow]:
            numbers = [rows[position] for position in storable]
            if not self._own_tf32:
                return encoder.encode(tokens, numbers)
            with self._forward_lock, tf32(False):  # the setting is that of all threads
                return encoder.encode(tokens, numbers)

        return self._results(pixels, encode)

    def for_shard(self, encoder: TokenEncoder | None, first_row: int) -> RunBatch:
        """Return the function that computes batches of a shard: tokens, or with an encoder codes.

        Args:
            encoder: encoder of the array's code for this device; None if the array holds float16 tokens.
            first_row: number of the first row of the shard.
        """
        if encoder is None:
            return lambda pixels, positions: self.tokens(pixels)
        return lambda pixels, positions: self.encoded(pixels, encoder, [first_row + place for place in positions])

    def _results(
        self, pixels: np.ndarray, finish: Callable[[Tensor, Sequence[int]], Sequence[Row]]
    ) -> Sequence[Row | str]:
        """Compute a batch and `finish` its storable rows, given with their positions; reasons stand for the others."""
        try:
            with self._device_slots if self._cuda else nullcontext(), self._stream():
                tokens, reasons = self._compute(torch.from_numpy(pixels))
                storable = [position for position, reason in enumerate(reasons) if reason is None]
                if len(storable) < len(reasons):
                    tokens = tokens[storable]
                finished = iter(finish(tokens, storable) if storable else ())
        except torch.OutOfMemoryError as error:
            raise JobFailed(
                f"teacher '{self.name}': a batch of {len(pixels)} rows is too much. Pass a smaller --batch-size"
            ) from error
        return [next(finished) if reason is None else f"unstorable tokens: {reason}" for reason in reasons]

    def _compute(self, pixels: Tensor) -> tuple[Tensor, list[str | None]]:
        """Return the float16 tokens of a batch, on the teacher's device, and why rows must not be stored."""
        if self._cuda:
            pixels = pixels.pin_memory().to(self.teacher.device, non_blocking=True)
        # The first batch runs alone: what the teacher caches from it must be there for all threads and streams.
        with self._forward_lock if self._cuda or not self._first_batch_done else nullcontext():
            prefix, patches = self.teacher(pixels)
            if self._cuda and not self._first_batch_done:
                torch.cuda.synchronize(self.teacher.device)
            self._first_batch_done = True
        return check_tokens(torch.cat((prefix, patches), dim=1))

    def _copied(self, tokens: Tensor, storable: Sequence[int]) -> Sequence[np.ndarray]:
        """Return tokens (B, T, C) as arrays of the host."""
        if not self._cuda:
            return list(tokens.numpy())
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        torch.cuda.current_stream(self.teacher.device).synchronize()
        return list(host.numpy())

    def _stream(self) -> AbstractContextManager[Any]:
        """Return the CUDA stream of this thread as a context; an empty context on the CPU."""
        if not self._cuda:
            return nullcontext()
        if not hasattr(self._thread, "stream"):
            new_stream: Any = torch.cuda.Stream
            self._thread.stream = new_stream(self.teacher.device)
        return torch.cuda.stream(self._thread.stream)


def check_tokens(tokens: Tensor) -> tuple[Tensor, list[str | None]]:
    """Round tokens to float16 on their device and name the rows that must not be stored.

    One reduction and one copy of B numbers to the host; a bad row does not touch its neighbours.

    Args:
        tokens: float (B, T, C).

    Returns:
        float16 tokens of the same shape, and for each row None or the reason why it failed.
    """
    largest = tokens.abs().flatten(1).amax(1).tolist()  # amax passes a NaN on
    return tokens.to(torch.float16), [_failure_reason(value, tokens[row]) for row, value in enumerate(largest)]


def find_batch_size(teacher: Teacher, image_size: int, *, limit: int = GPU_LIMIT) -> int:
    """Return the largest batch that fits the teacher's GPU, by halving from `limit`; on a CPU a constant.

    Args:
        teacher: loaded on the device that the job will use.
        image_size: side of the stored pixels, px.
        limit: largest batch to try, for example the rows of a shard.

    Raises:
        JobFailed: not even one image fits.
    """
    if teacher.device.type != "cuda":
        return min(CPU_BATCH, limit)
    batch = limit
    while batch:
        if _fits(teacher, batch, image_size):
            return batch
        torch.cuda.empty_cache()
        batch //= 2
    raise JobFailed(
        f"teacher '{teacher.model}': one image of {image_size} px does not fit the memory of {teacher.device}. "
        "Use a GPU with more memory, or dtype = 'float16'"
    )


def _failure_reason(largest: float, row: Tensor) -> str | None:
    if math.isfinite(largest):
        if largest < FLOAT16_OVERFLOW:
            return None
        return f"teacher output of {largest:.6g} does not fit float16 (at most {FLOAT16_MAX:.0f})"
    bad = int((~torch.isfinite(row)).sum())
    return f"teacher output is not finite in {bad} of {row.numel()} values"


def _fits(teacher: Teacher, batch: int, image_size: int) -> bool:
    """Try one batch, with its outputs joined and rounded as a job does."""
    try:
        pixels = torch.zeros(batch, image_size, image_size, 3, dtype=torch.uint8, device=teacher.device)
        check_tokens(torch.cat(teacher(pixels), dim=1))
    except torch.OutOfMemoryError:
        return False
    return True
