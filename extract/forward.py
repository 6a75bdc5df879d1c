"""A teacher at work: batches of pixels in, checked float16 tokens out, one batch on the device while others move.

Shapes: B batch, H W pixels, T tokens (prefix first, then patches row by row), C channels.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from extract.teachers.base import Teacher
from extract.teachers.checks import check_tokens
from store import errors

BATCHES_ON_DEVICE = 2


class TeacherLane:
    """One loaded teacher, shared by threads that make different shards.

    One of them at a time starts a batch; while it computes, the others read, copy and write. On a GPU two batches may
    be on the device, so that it never waits for a copy, each in its thread's own stream, so that waiting for one is not
    waiting for the other.

    Args:
        name: of the teacher in the cache.
        teacher: on its device.
        provenance: kept in every shard, beside the teacher's own.
    """

    def __init__(self, name: str, teacher: Teacher, *, provenance: Mapping[str, Any]) -> None:
        self.name = name
        self.teacher = teacher
        self.provenance = {**teacher.provenance(), **provenance}
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(BATCHES_ON_DEVICE)
        self._own = threading.local()
        self._settled = False

    def tokens(self, pixels: np.ndarray) -> Sequence[np.ndarray | str]:
        """Tokens of a batch.

        Args:
            pixels: uint8 (B, H, W, 3), B at least 1.

        Returns:
            For each row float16 (T, C), or the reason why its tokens cannot be stored.

        Raises:
            errors.JobFailed: the device's memory does not suffice.
        """
        try:
            with self._places, self._stream():
                halves, reasons = self._compute(torch.from_numpy(pixels))
        except torch.OutOfMemoryError as error:
            advice = "Pass a smaller --batch-size"
            raise errors.JobFailed(
                f"teacher '{self.name}': a batch of {len(pixels)} rows is too much. {advice}"
            ) from error
        return [
            row if reason is None else f"unstorable tokens: {reason}"
            for row, reason in zip(halves, reasons, strict=True)
        ]

    def _compute(self, pixels: torch.Tensor) -> tuple[np.ndarray, list[str | None]]:
        cuda = self.teacher.device.type == "cuda"
        if cuda:
            pixels = pixels.pin_memory().to(self.teacher.device, non_blocking=True)
        with self._turn:
            prefix, patches = self.teacher(pixels)
            if cuda and not self._settled:  # what the teacher keeps from its first batch must be there for all streams
                torch.cuda.synchronize(self.teacher.device)
                self._settled = True
        halves, reasons = check_tokens(torch.cat((prefix, patches), dim=1))
        if not cuda:
            return halves.numpy(), reasons
        host = torch.empty(halves.shape, dtype=halves.dtype, pin_memory=True)
        host.copy_(halves, non_blocking=True)
        torch.cuda.current_stream(self.teacher.device).synchronize()
        return host.numpy(), reasons

    def _stream(self) -> AbstractContextManager[Any]:
        """This thread's stream on a GPU."""
        if self.teacher.device.type != "cuda":
            return nullcontext()
        if not hasattr(self._own, "stream"):
            new_stream: Any = torch.cuda.Stream
            self._own.stream = new_stream(self.teacher.device)
        return torch.cuda.stream(self._own.stream)
