"""Batches from the cache to the device: reader threads, bounded read-ahead, copies that overlap with compute.

Shapes: B images of the rank's batch, H W pixels, N tokens (prefix and patches), K stored patches, C channels,
T teachers.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from store import TeacherInfo
from store.format.schema import PIXELS
from train.data.buffers import (
    ROW_NUMBERS,
    BatchLayout,
    Buffer,
    CopyStream,
    batch_shapes,
    codes_of,
    patches_of,
    pinned_bytes,
)
from train.data.mixture import RowSelection, Source, cached_forms
from train.data.source_reader import Flags, SourceReader

DEVICE_BATCHES = 2  # batches that wait in the memory of a GPU
STOP_CHECK_S = 0.05  # between checks whether the consumer has stopped

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Codes of one teacher's tokens in a batch.

    Attributes:
        codes: uint8 (B, row bytes), as stored.
        rows: int64 (B,), numbers of the rows.
        patches: int32 (B, K), numbers of the patches that the codes hold; None if they hold all.
        used: bool (B,) in host memory, True where the codes are an image's targets, False where its tokens are.
    """

    codes: Tensor
    rows: Tensor
    patches: Tensor | None
    used: Flags


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pixels and targets of one step on the device; valid until the next batch is asked for.

    A teacher is in `tokens`, in `codes`, or in both where one source holds float16 tokens and another codes.

    Attributes:
        step: number of the step, from 0.
        rows: the rows that the batch holds, in its order.
        pixels: uint8 (B, H, W, 3), as stored.
        tokens: name of a teacher -> raw tokens, float16 (B, N, C), prefix first; zeros where `read` is False.
        codes: name of a teacher -> codes of its tokens, zeros where `read` is False.
        read: bool (T, B), True where a teacher's tokens or codes were read for an image.
    """

    step: int
    rows: RowSelection
    pixels: Tensor
    tokens: Mapping[str, Tensor]
    codes: Mapping[str, Codes] = field(default_factory=dict)
    read: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]"

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers, in the order of `read`."""
        return sorted({*self.tokens, *self.codes})


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A batch in a host buffer, or on its way to a GPU: the memory there and the event of its arrival."""

    batch: Batch
    buffer: Buffer | None = None
    copy: tuple[Tensor, Any] | None = None


class Loader:
    """Iterates over batches in order, reading ahead.

    One thread feeds: it takes a free buffer and lets a pool fill it with the rows of the next batch. For a GPU, another
    thread copies filled buffers, at most two batches ahead. Buffers are allocated once, so memory does not grow.

    Use as a context manager.

    Attributes:
        waited_s: total time that the consumer has waited for data.
        host_bytes: memory of the buffers; pinned if the device is a GPU.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        teachers: Mapping[str, TeacherInfo],
        image_size: int,
        plan: Callable[[int], RowSelection],
        steps: Sequence[int],
        batch: int,
        device: torch.device,
        readers: int = 2,
        prefetch: int = 2,
        verify: bool = True,
        raw: bool = False,
    ) -> None:
        """Allocate the buffers; reading starts with the first batch asked for.

        Args:
            sources: sources that `plan` refers to by number.
            teachers: name -> teacher whose tokens a batch holds; sorted.
            image_size: side of the stored pixels, px.
            plan: function that returns the rows of a step, at most `batch` of them.
            steps: numbers of the steps, in order.
            batch: largest number of rows of a step.
            device: device that batches are delivered on.
            readers: number of datasets read at once; the store reads each with threads of its own.
            prefetch: number of batches read ahead.
            verify: check the checksum of every row.
            raw: deliver codes as they are stored, to be decoded on the device; False delivers float16 tokens always,
                NaN where a code does not hold a patch.
        """
        self._plan, self._steps = plan, steps
        self._names = list(teachers)
        self._reader = SourceReader(sources, teachers, raw=raw, verify=verify)
        forms = cached_forms(sources, teachers) if raw else None
        self._copy_stream = CopyStream(device) if device.type == "cuda" else None
        self._layout = BatchLayout(shapes=batch_shapes(teachers, image_size=image_size, batch=batch, forms=forms))
        self._free: queue.Queue[Buffer] = queue.Queue()
        for _ in range(prefetch + 1):
            self._free.put(Buffer(memory=self._allocate(), layout=self._layout))
        self.host_bytes = (prefetch + 1) * (
            pinned_bytes(self._layout.bytes) if self._copy_stream else self._layout.bytes
        )
        self._filled: queue.Queue[_Ready | BaseException] = queue.Queue()
        self._ready: queue.Queue[_Ready | BaseException] = queue.Queue() if self._copy_stream else self._filled
        self._device_slots = threading.Semaphore(DEVICE_BATCHES)
        self._stop = threading.Event()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="codistill-read")
        jobs = {"codistill-feed": self._feed, **({"codistill-send": self._send} if self._copy_stream else {})}
        self._threads = [threading.Thread(target=job, name=name, daemon=True) for name, job in jobs.items()]
        self.waited_s = 0.0

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._readers.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        for thread in self._threads:
            thread.start()
        for _ in self._steps:
            begin = time.perf_counter()
            item = self._ready.get()
            self.waited_s += time.perf_counter() - begin
            if isinstance(item, BaseException):
                raise item
            if self._copy_stream and item.copy:
                self._copy_stream.receive(*item.copy)
                self._device_slots.release()
            yield item.batch
            if item.buffer is not None:
                self._free.put(item.buffer)

    def _allocate(self) -> Tensor:
        size = self._layout.bytes
        return self._copy_stream.memory(size) if self._copy_stream else torch.empty(size, dtype=torch.uint8)

    def _feed(self) -> None:
        """Fill buffers, in a thread, until all steps are read, the consumer stops or a read fails."""
        try:
            for step in self._steps:
                buffer = self._unless_stopped(lambda: self._free.get(timeout=STOP_CHECK_S))
                if buffer is None:
                    return
                if buffer.copied is not None:
                    buffer.copied.synchronize()
                self._filled.put(_Ready(batch=self._fill(buffer, step), buffer=buffer))
        except BaseException as error:  # the consumer raises it
            self._filled.put(error)

    def _send(self) -> None:
        """Copy filled buffers to the GPU in order, in a thread."""
        assert self._copy_stream is not None
        try:
            for _ in self._steps:
                item = self._unless_stopped(lambda: self._filled.get(timeout=STOP_CHECK_S))
                if isinstance(item, BaseException):
                    self._ready.put(item)
                if not isinstance(item, _Ready) or item.buffer is None:
                    return
                if self._unless_stopped(lambda: self._device_slots.acquire(timeout=STOP_CHECK_S) or None) is None:
                    return
                memory, arrived = self._copy_stream.send(item.buffer.memory)
                item.buffer.copied = arrived
                self._ready.put(_Ready(batch=self._on_device(item.batch, memory), copy=(memory, arrived)))
                self._free.put(item.buffer)
        except BaseException as error:
            self._ready.put(error)

    def _unless_stopped(self, attempt: "Callable[[], T | None]") -> "T | None":
        """Repeat `attempt` until it gives something, and return that; None once the consumer has stopped."""
        while not self._stop.is_set():
            try:
                result = attempt()
            except queue.Empty:
                continue
            if result is not None:
                return result
        return None

    def _on_device(self, batch: Batch, memory: Tensor) -> Batch:
        return self._with_arrays(batch, self._layout.arrays(memory))

    def _fill(self, buffer: Buffer, step: int) -> Batch:
        rows = self._plan(step).by_source()
        begins = np.flatnonzero(np.diff(rows.source, prepend=-1))
        parts = [slice(begin, end) for begin, end in pairwise([*begins.tolist(), len(rows)])]
        for _ in self._readers.map(lambda part: self._read(buffer, rows, part), parts):
            pass
        read = np.array([self._reader.reads(name, rows.source) for name in self._names], dtype=np.bool_)
        read = read.reshape(len(self._names), len(rows))
        batch = Batch(step=step, rows=rows, pixels=buffer.arrays[PIXELS], tokens={}, read=read)
        return self._with_arrays(batch, buffer.arrays)

    def _with_arrays(self, batch: Batch, arrays: Mapping[str, Tensor]) -> Batch:
        """Return a batch whose pixels, tokens and codes are the first rows of some arrays."""
        first = {name: array[: len(batch.rows)] for name, array in arrays.items()}
        codes = {
            name: Codes(
                codes=first[codes_of(name)],
                rows=first[ROW_NUMBERS],
                patches=first.get(patches_of(name)),
                used=self._uses_codes(name, batch.rows),
            )
            for name in self._names
            if codes_of(name) in first
        }
        tokens = {name: first[name] for name in self._names if name in first}
        return replace(batch, pixels=first[PIXELS], tokens=tokens, codes=codes)

    def _uses_codes(self, name: str, rows: RowSelection) -> Flags:
        """Return for each row whether its targets are codes; of a teacher that has codes alone, always."""
        if name not in self._layout.shapes:
            return np.ones(len(rows), dtype=np.bool_)
        return self._reader.uses_codes(name, rows.source)

    def _read(self, buffer: Buffer, rows: RowSelection, part: slice) -> None:
        """Read the part of a batch that comes from one source."""
        self._reader.read(buffer.views, int(rows.source[part.start]), rows.row[part], part)
