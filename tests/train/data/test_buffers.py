"""Memory of batches and their copies to a GPU, with a stand-in for the GPU whose copies arrive late."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train.data.loader
from store.errors import MissingShard
from tests.train.builders import build_cache, tiny
from train.data.buffers import ALIGNMENT_BYTES, BatchLayout, Buffer, pinned_bytes
from train.data.loader import DEVICE_BATCHES, Batch, Loader
from train.data.mixture import Mixture, RowSelection
from train.data.open_caches import open_mixture
from train.data.sampler import Sampler

GPU = torch.device("cuda")
BATCH, STEPS = 6, 20


class Arrival:
    """A copy that happens once a thread waits for it."""

    def __init__(self, source: Tensor, target: Tensor) -> None:
        self._source, self._target, self._lock, self._done = source, target, threading.Lock(), False

    def synchronize(self) -> None:
        with self._lock:
            if not self._done:
                self._target.copy_(self._source)
            self._done = True


class LateCopyStream:
    """Takes the place of `train.data.buffers.CopyStream`."""

    def __init__(self, device: torch.device) -> None:
        assert device == GPU
        self.sent = 0

    def memory(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)

    def send(self, memory: Tensor) -> tuple[Tensor, Arrival]:
        self.sent += 1
        target = torch.zeros_like(memory)
        return target, Arrival(memory, target)

    def receive(self, sent: Tensor, arrived: Arrival) -> None:
        arrived.synchronize()


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mixture:
    monkeypatch.setattr(train.data.loader, "CopyStream", LateCopyStream)
    build_cache(tmp_path / "cache")
    return open_mixture(tiny(), [str(tmp_path / "cache")])


def loader(mixture: Mixture, planned: list[int], *, device: torch.device = GPU, **options: Any) -> Loader:
    sampler = Sampler(seed=0, batch=BATCH, groups=mixture.group_rows)

    def plan(step: int) -> RowSelection:
        planned.append(step)
        rows = mixture.locate(sampler.sample_batch(step))
        return rows[: BATCH - step % 3]  # not all of the same size

    return Loader(
        sources=mixture.sources,
        teachers=mixture.teachers,
        image_size=mixture.image_size,
        plan=plan,
        steps=range(STEPS),
        batch=BATCH,
        device=device,
        **options,
    )


class ReadAhead:
    """Hears from the threads of a loader when they are about to wait for a buffer or for room on the GPU."""

    def __init__(self, loader: Loader, planned: list[int]) -> None:
        self._changed = threading.Condition()
        self._waiting = {"feed": (0, 1), "send": (0, 1)}  # batches done and resources left when last about to wait
        get_buffer, acquire_slot = loader._free.get, loader._device_slots.acquire

        def get(*, timeout: float) -> Buffer:
            self._tell("feed", len(planned), loader._free.qsize())
            return get_buffer(timeout=timeout)

        def acquire(*, timeout: float) -> bool:
            self._tell("send", loader._copy_stream.sent, loader._device_slots._value)  # type: ignore[union-attr]
            return acquire_slot(timeout=timeout)

        loader._free.get = get  # type: ignore[method-assign]
        loader._device_slots.acquire = acquire  # type: ignore[method-assign]

    def _tell(self, thread: str, done: int, left: int) -> None:
        with self._changed:
            self._waiting[thread] = done, left
            self._changed.notify_all()

    def until(self, *, planned: int, sent: int) -> tuple[int, int]:
        """Wait until so many batches at least are planned and sent and both threads lack the means for more.

        Returns:
            The numbers that are.
        """

        def stuck() -> bool:
            (fed, free), (copied, slots) = self._waiting["feed"], self._waiting["send"]
            return fed >= planned and copied >= sent and free == slots == 0

        with self._changed:
            self._changed.wait_for(stuck)
            return self._waiting["feed"][0], self._waiting["send"][0]


def content(batch: Batch) -> tuple[int, list[Tensor]]:
    return batch.step, [batch.pixels.clone(), *(tokens.clone() for tokens in batch.tokens.values())]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("codistill-feed", "codistill-send")]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_what_arrives_on_a_gpu_is_what_was_read(mixture: Mixture, prefetch: int) -> None:
    """No buffer is filled again before its copy is done, also when all that can be read ahead is."""
    with loader(mixture, [], device=torch.device("cpu")) as plain:
        expected = [content(batch) for batch in plain]
    arrived, planned = [], []
    with loader(mixture, planned, prefetch=prefetch) as over:
        ahead = ReadAhead(over, planned)
        for batch in over:
            sent = batch.step + 1 + DEVICE_BATCHES
            if batch.step % 2 and sent + prefetch + 1 < STEPS:
                ahead.until(planned=sent + prefetch + 1, sent=sent)
            arrived.append(content(batch))
    assert [step for step, _ in arrived] == list(range(STEPS))
    for (_, ours), (_, theirs) in zip(arrived, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert not threads()


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_reading_ahead_is_as_deep_as_asked_and_no_deeper(mixture: Mixture, prefetch: int) -> None:
    """One batch is in use, two wait on the GPU, and every host buffer is full."""
    planned: list[int] = []
    with loader(mixture, planned, prefetch=prefetch) as over:
        ahead = ReadAhead(over, planned)
        next(iter(over))
        expected = 1 + DEVICE_BATCHES + prefetch + 1, 1 + DEVICE_BATCHES
        assert ahead.until(planned=expected[0], sent=expected[1]) == expected
    assert not threads()


def test_a_failing_read_passes_the_copy_stream(mixture: Mixture, tmp_path: Path) -> None:
    for shard in (tmp_path / "cache" / "features.zarr" / "rooms" / "beta" / "tokens").glob("c.*"):
        shard.unlink()
    with pytest.raises(MissingShard), loader(mixture, []) as over:
        list(over)
    assert not threads()


def test_a_failing_copy_reaches_the_consumer(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: LateCopyStream, memory: Tensor) -> tuple[Tensor, Arrival]:
        raise RuntimeError("the GPU has gone")

    monkeypatch.setattr(LateCopyStream, "send", lost)
    with pytest.raises(RuntimeError, match="the GPU has gone"), loader(mixture, []) as over:
        list(over)
    assert not threads()


def test_memory_is_one_piece_for_each_batch_and_counted(mixture: Mixture) -> None:
    shapes = {
        "pixels": ((3, 5, 5, 3), torch.uint8),
        "a": ((3, 4, 2), torch.float16),
        "b": ((3, 700, 7), torch.float16),
    }
    layout = BatchLayout(shapes=shapes)
    assert layout.begins == {"pixels": 0, "a": ALIGNMENT_BYTES, "b": 2 * ALIGNMENT_BYTES}
    assert layout.bytes == 2 * ALIGNMENT_BYTES + 2 * 3 * 700 * 7
    buffer = Buffer(memory=torch.zeros(layout.bytes, dtype=torch.uint8), layout=layout)
    for number, view in enumerate(buffer.views.values(), start=1):
        view[:] = number
    assert {name: array.unique().tolist() for name, array in buffer.arrays.items()} == {
        "pixels": [1],
        "a": [2],
        "b": [3],
    }
    assert [pinned_bytes(size) for size in (1, 2, 3, 4096, 4097, 496_000_000)] == [1, 2, 4, 4096, 8192, 2**29]
    size = loader(mixture, [])._layout.bytes
    assert loader(mixture, [], prefetch=2).host_bytes == 3 * pinned_bytes(size)
    assert loader(mixture, [], prefetch=2, device=torch.device("cpu")).host_bytes == 3 * size
