"""Batches from the cache to the device: reader threads, bounded read-ahead, copies that overlap with compute.

Shapes: B images of the rank's batch, H W pixels, N tokens (prefix and patches), C channels, T teachers.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from store import TeacherInfo
from store.format.schema import PIXELS
from train.data.buffers import BatchLayout, Buffer, CopyStream, batch_shapes, pinned_bytes
from train.data.mixture import RowSelection, Source

DEVICE_BATCHES = 2  # batches that wait in the memory of a GPU
STOP_CHECK_S = 0.05  # between checks whether the consumer has stopped

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pixels and tokens of one step on the device; valid until the next batch is asked for.

    Attributes:
        step: number of the step, from 0.
        rows: the rows that the batch holds, in its order.
        pixels: uint8 (B, H, W, 3), as stored.
        tokens: name of a teacher -> raw tokens, float16 (B, N, C), prefix first; zeros where `read` is False.
        read: bool (T, B), True where a teacher's tokens were read for an image.
    """

    step: int
    rows: RowSelection
    pixels: Tensor
    tokens: Mapping[str, Tensor]
    read: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]"


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
    ) -> None:
        """Allocate the buffers; reading starts with the first batch asked for.

        Args:
            sources: sources that `plan` refers to by number.
            teachers: name -> teacher whose tokens a batch holds.
            image_size: side of the stored pixels, px.
            plan: function that returns the rows of a step, at most `batch` of them.
            steps: numbers of the steps, in order.
            batch: largest number of rows of a step.
            device: device that batches are delivered on.
            readers: number of datasets read at once; the store reads each with threads of its own.
            prefetch: number of batches read ahead.
            verify: check the checksum of every row.
        """
        self._sources, self._plan, self._steps, self._verify = sources, plan, steps, verify
        self._names = list(teachers)
        self._copy_stream = CopyStream(device) if device.type == "cuda" else None
        self._layout = BatchLayout(shapes=batch_shapes(teachers, image_size=image_size, batch=batch))
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
        arrays, part = self._layout.arrays(memory), slice(0, len(batch.rows))
        tokens = {name: arrays[name][part] for name in self._names}
        return replace(batch, pixels=arrays[PIXELS][part], tokens=tokens)

    def _fill(self, buffer: Buffer, step: int) -> Batch:
        rows = self._plan(step).by_source()
        begins = np.flatnonzero(np.diff(rows.source, prepend=-1))
        parts = [slice(begin, end) for begin, end in pairwise([*begins.tolist(), len(rows)])]
        for _ in self._readers.map(lambda part: self._read(buffer, rows, part), parts):
            pass
        whole = slice(0, len(rows))
        reads = [self._sources[source].reads for source in rows.source]
        return Batch(
            step=step,
            rows=rows,
            pixels=buffer.arrays[PIXELS][whole],
            tokens={name: buffer.arrays[name][whole] for name in self._names},
            read=np.array([[name in names for names in reads] for name in self._names], dtype=np.bool_),
        )

    def _read(self, buffer: Buffer, rows: RowSelection, part: slice) -> None:
        """Read the part of a batch that comes from one source; the store spreads it over threads of its own."""
        source = self._sources[int(rows.source[part.start])]
        arrays = [PIXELS, *source.reads]
        for name in self._names:
            if name not in arrays:
                buffer.views[name][part] = 0
        out = {name: buffer.views[name][part] for name in arrays}
        source.dataset.read(rows.row[part], arrays, out=out, verify=self._verify)
