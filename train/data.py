"""From the cache into the device's memory: reader threads, bounded read-ahead, copies that overlap with compute.

Shapes: B images of the rank's batch, H W pixels, N tokens (prefix and patches), C channels, T teachers.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from store import TeacherInfo
from store.schema import PIXELS
from train.mixture import Picks, Source

DEVICE_BATCHES = 2  # batches that wait on a GPU, copied before they are needed


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
    picks: Picks
    pixels: Tensor
    tokens: Mapping[str, Tensor]
    read: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]"


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A batch on its way to the consumer: the host buffer that it lives in, or when its copy is on the GPU."""

    batch: Batch
    buffer: "_Buffer | None" = None
    copied: Any = None


@dataclass(kw_only=True)
class _Buffer:
    """Host memory of one batch, used again and again; `copied` is when the device has it."""

    arrays: dict[str, Tensor]
    views: dict[str, np.ndarray[Any, np.dtype[Any]]] = field(init=False)
    copied: Any = None

    def __post_init__(self) -> None:
        self.views = {name: array.numpy() for name, array in self.arrays.items()}


class Loader:
    """Iterates over batches in order, reading ahead.

    One thread feeds: it takes a free buffer, lets the pool read the batch's rows straight into it and, on a GPU,
    starts the copy on a side stream. Buffers are made once, so memory does not grow.

    Use as a context manager; `waited_s` is how long the consumer has waited for data, in all.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        teachers: Mapping[str, TeacherInfo],
        image_size: int,
        plan: Callable[[int], Picks],
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
        self._device = device
        self._on_gpu = device.type == "cuda"
        shapes = buffer_shapes(teachers, image_size=image_size, batch=batch)
        self._free: queue.Queue[_Buffer] = queue.Queue()
        for _ in range(prefetch + 1):
            self._free.put(_Buffer(arrays=_allocate(shapes, pinned=self._on_gpu)))
        self._ready: queue.Queue[_Ready | BaseException] = queue.Queue(DEVICE_BATCHES if self._on_gpu else 0)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="codistill-read")
        self._feeder = threading.Thread(target=self._feed, name="codistill-feed", daemon=True)
        self.waited_s = 0.0

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._feeder.is_alive():
            while self._feeder.is_alive():
                _drain(self._ready)
                self._feeder.join(0.01)
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        self._feeder.start()
        for _ in self._steps:
            begin = time.perf_counter()
            item = self._ready.get()
            self.waited_s += time.perf_counter() - begin
            if isinstance(item, BaseException):
                raise item
            if item.copied is not None:
                _use_on_current_stream(item, self._device)
            yield item.batch
            if item.buffer is not None:
                self._free.put(item.buffer)

    def _feed(self) -> None:
        """Runs in its own thread until all steps are fed, the consumer leaves, or a read fails."""
        stream: Any = _side_stream(self._device) if self._on_gpu else None
        try:
            for step in self._steps:
                buffer = self._take_buffer()
                if buffer is None:
                    return
                batch = self._fill(buffer, step)
                if stream is None:
                    self._hand_over(_Ready(batch=batch, buffer=buffer))
                    continue
                with torch.cuda.stream(stream):
                    batch = _on_device(batch, self._device)
                    buffer.copied = stream.record_event()
                self._hand_over(_Ready(batch=batch, copied=buffer.copied))
                self._free.put(buffer)
        except BaseException as error:  # the consumer raises it
            self._hand_over(error)

    def _take_buffer(self) -> _Buffer | None:
        while not self._stop.is_set():
            try:
                buffer = self._free.get(timeout=0.05)
            except queue.Empty:
                continue
            if buffer.copied is not None:
                buffer.copied.synchronize()
            return buffer
        return None

    def _hand_over(self, item: _Ready | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.05)
            except queue.Full:
                continue
            return

    def _fill(self, buffer: _Buffer, step: int) -> Batch:
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

    def _read(self, buffer: _Buffer, picks: Picks, part: slice) -> None:
        """Read neighbouring rows of one source; the store spreads them over its own threads."""
        source = self._sources[int(picks.source[part.start])]
        wanted = [PIXELS, *source.reads]
        for name in self._names:
            if name not in wanted:
                buffer.views[name][part] = 0
        out = {name: buffer.views[name][part] for name in wanted}
        source.dataset.read(picks.row[part], wanted, out=out, verify=self._verify)


def buffer_shapes(
    teachers: Mapping[str, TeacherInfo], *, image_size: int, batch: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each array of a batch of `batch` rows."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {PIXELS: ((batch, image_size, image_size, 3), torch.uint8)}
    for name, teacher in teachers.items():
        tokens = teacher.prefix_tokens + teacher.patch_grid[0] * teacher.patch_grid[1]
        shapes[name] = ((batch, tokens, teacher.channels), torch.float16)
    return shapes


def row_bytes(teachers: Mapping[str, TeacherInfo], *, image_size: int) -> int:
    """Bytes of one row with the tokens of all teachers."""
    shapes = buffer_shapes(teachers, image_size=image_size, batch=1)
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes.values())


def _allocate(shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]], *, pinned: bool) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=dtype, pin_memory=pinned) for name, (shape, dtype) in shapes.items()}


def _side_stream(device: torch.device) -> Any:
    new_stream: Any = torch.cuda.Stream  # untyped in torch
    return new_stream(device)


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        step=batch.step,
        picks=batch.picks,
        pixels=batch.pixels.to(device, non_blocking=True),
        tokens={name: tokens.to(device, non_blocking=True) for name, tokens in batch.tokens.items()},
        read=batch.read,
    )


def _use_on_current_stream(ready: _Ready, device: torch.device) -> None:
    """Make the compute stream wait for the copies, and keep their memory until it has used them."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(ready.copied)
    for tensor in (ready.batch.pixels, *ready.batch.tokens.values()):
        tensor.record_stream(stream)


def _drain(waiting: "queue.Queue[Any]") -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
