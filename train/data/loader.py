"""From the cache into the device's memory: reader threads, bounded read-ahead, copies that overlap with compute.

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

DEVICE_BATCHES = 2  # batches that wait on a GPU, copied before they are needed
PATIENCE_S = 0.05  # between looks at whether the consumer has left

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step trains on, on the device; valid until the next batch is asked for.

    Attributes:
        step: from 0.
        picks: where the rows come from.
        pixels: uint8 (B, H, W, 3), as stored.
        tokens: raw tokens of each teacher, float16 (B, N, C), prefix first; zeros where `read` is False.
        read: bool (T, B), which teachers' tokens were read for which image.
    """

    step: int
    picks: RowSelection
    pixels: Tensor
    tokens: Mapping[str, Tensor]
    read: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]"


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A batch and the host buffer that it lies in, or how it comes to the GPU."""

    batch: Batch
    buffer: Buffer | None = None
    sent: tuple[Tensor, Any] | None = None


class Loader:
    """Iterates over batches in order, reading ahead.

    One thread reads: it takes a free buffer and lets the pool fill it with the rows of the next batch. For a GPU,
    another copies filled buffers, at most two batches ahead. Buffers are made once, so memory does not grow.

    Use as a context manager.

    Attributes:
        waited_s: how long the consumer has waited for data, in all.
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
        """Prepare; reading starts with the first batch asked for.

        Args:
            sources: what `plan` refers to.
            teachers: whose tokens a batch holds.
            image_size: side of the stored pixels, px.
            plan: rows of each step, at most `batch` of them.
            steps: to go through, in order.
            batch: largest number of rows of a step.
            device: where batches are wanted.
            readers: datasets read at once; the store reads each with threads of its own.
            prefetch: batches read ahead.
            verify: check the checksum of every row.
        """
        self._sources, self._plan, self._steps, self._verify = sources, plan, steps, verify
        self._names = list(teachers)
        self._lane = CopyStream(device) if device.type == "cuda" else None
        self._layout = BatchLayout(shapes=batch_shapes(teachers, image_size=image_size, batch=batch))
        self._free: queue.Queue[Buffer] = queue.Queue()
        for _ in range(prefetch + 1):
            self._free.put(Buffer(memory=self._allocate(), layout=self._layout))
        self.host_bytes = (prefetch + 1) * (pinned_bytes(self._layout.bytes) if self._lane else self._layout.bytes)
        self._filled: queue.Queue[_Ready | BaseException] = queue.Queue()
        self._ready: queue.Queue[_Ready | BaseException] = queue.Queue() if self._lane else self._filled
        self._room = threading.Semaphore(DEVICE_BATCHES)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="codistill-read")
        jobs = {"codistill-feed": self._feed, **({"codistill-send": self._send} if self._lane else {})}
        self._threads = [threading.Thread(target=job, name=name, daemon=True) for name, job in jobs.items()]
        self.waited_s = 0.0

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        for thread in self._threads:
            thread.start()
        for _ in self._steps:
            begin = time.perf_counter()
            item = self._ready.get()
            self.waited_s += time.perf_counter() - begin
            if isinstance(item, BaseException):
                raise item
            if self._lane and item.sent:
                self._lane.receive(*item.sent)
                self._room.release()
            yield item.batch
            if item.buffer is not None:
                self._free.put(item.buffer)

    def _allocate(self) -> Tensor:
        size = self._layout.bytes
        return self._lane.memory(size) if self._lane else torch.empty(size, dtype=torch.uint8)

    def _feed(self) -> None:
        """Runs in its own thread until all steps are read, the consumer leaves, or a read fails."""
        try:
            for step in self._steps:
                buffer = self._unless_stopped(lambda: self._free.get(timeout=PATIENCE_S))
                if buffer is None:
                    return
                if buffer.copied is not None:
                    buffer.copied.synchronize()
                self._filled.put(_Ready(batch=self._fill(buffer, step), buffer=buffer))
        except BaseException as error:  # the consumer raises it
            self._filled.put(error)

    def _send(self) -> None:
        """Runs in its own thread on a machine with a GPU: from filled buffers to device memory, in order."""
        assert self._lane is not None
        try:
            for _ in self._steps:
                item = self._unless_stopped(lambda: self._filled.get(timeout=PATIENCE_S))
                if isinstance(item, BaseException):
                    self._ready.put(item)
                if not isinstance(item, _Ready) or item.buffer is None:
                    return
                if self._unless_stopped(lambda: self._room.acquire(timeout=PATIENCE_S) or None) is None:
                    return
                memory, arrived = self._lane.send(item.buffer.memory)
                item.buffer.copied = arrived
                self._ready.put(_Ready(batch=self._on_device(item.batch, memory), sent=(memory, arrived)))
                self._free.put(item.buffer)
        except BaseException as error:
            self._ready.put(error)

    def _unless_stopped(self, attempt: "Callable[[], T | None]") -> "T | None":
        """What `attempt` gives, tried again and again until the consumer leaves; None then."""
        while not self._stop.is_set():
            try:
                found = attempt()
            except queue.Empty:
                continue
            if found is not None:
                return found
        return None

    def _on_device(self, batch: Batch, memory: Tensor) -> Batch:
        arrays, part = self._layout.arrays(memory), slice(0, len(batch.picks))
        tokens = {name: arrays[name][part] for name in self._names}
        return replace(batch, pixels=arrays[PIXELS][part], tokens=tokens)

    def _fill(self, buffer: Buffer, step: int) -> Batch:
        picks = self._plan(step).by_source()
        reads = [self._sources[source].reads for source in picks.source]
        begins = np.flatnonzero(np.diff(picks.source, prepend=-1))
        parts = [slice(begin, end) for begin, end in pairwise([*begins.tolist(), len(picks)])]
        for _ in self._pool.map(lambda part: self._read(buffer, picks, part), parts):
            pass
        part = slice(0, len(picks))
        return Batch(
            step=step,
            picks=picks,
            pixels=buffer.arrays[PIXELS][part],
            tokens={name: buffer.arrays[name][part] for name in self._names},
            read=np.array([[name in wanted for wanted in reads] for name in self._names], dtype=np.bool_),
        )

    def _read(self, buffer: Buffer, picks: RowSelection, part: slice) -> None:
        """Read neighbouring rows of one source; the store spreads them over its own threads."""
        source = self._sources[int(picks.source[part.start])]
        wanted = [PIXELS, *source.reads]
        for name in self._names:
            if name not in wanted:
                buffer.views[name][part] = 0
        out = {name: buffer.views[name][part] for name in wanted}
        source.dataset.read(picks.row[part], wanted, out=out, verify=self._verify)
