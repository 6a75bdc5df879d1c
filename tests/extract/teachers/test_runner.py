"""The runner that threads share: rows in order, one batch at a time, reasons for rows that cannot be stored."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extract.teachers.base import Teacher
from extract.teachers.options import Request
from extract.teachers.runner import TeacherRunner
from store import errors


class Counting(Teacher):
    """Tokens are the images' means; tells `on_batch` the number of each batch, from 0, when it begins."""

    def __init__(self, weights: Path) -> None:
        request = Request(model="counting", weights=weights)
        super().__init__(nn.Linear(1, 1), request=request, architecture={}, patch_size=14, channels=3, prefix_tokens=0)
        self.numbers = itertools.count()  # `next` is atomic
        self.on_batch: Callable[[int], None] = lambda number: None
        self.full = False

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.on_batch(next(self.numbers))
        patches = nn.functional.avg_pool2d(images, 14).flatten(2).transpose(1, 2)
        return patches[:, :0], patches


class AnnouncedLock:
    """A lock that counts the threads that come to it, before they wait for it."""

    def __init__(self) -> None:
        self.lock, self.arrivals = threading.Lock(), threading.Semaphore(0)

    def __enter__(self) -> None:
        self.arrivals.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


@pytest.fixture
def teacher(tmp_path: Path) -> Counting:
    (tmp_path / "weights").write_bytes(b"any")
    return Counting(tmp_path / "weights")


def test_threads_get_their_own_rows(teacher: Counting) -> None:
    """The first batch runs alone though another thread has one too; the second and the third run at once."""
    runner = TeacherRunner("t", teacher, provenance={"machine": "here"})
    batches = [np.full((3, 28, 28, 3), level, np.uint8) for level in range(0, 250, 10)]
    lock, together = AnnouncedLock(), threading.Barrier(2)
    assert isinstance(runner._forward_lock, type(lock.lock))
    runner._forward_lock = lock  # type: ignore[assignment]
    begun: list[int] = []
    begun_in_the_first: list[int] = []

    def on_batch(number: int) -> None:
        begun.append(number)
        if number == 0:
            for _ in range(2):  # this thread comes to the lock, and another one
                lock.arrivals.acquire()
            begun_in_the_first.extend(begun)
        elif number <= 2:
            lock.arrivals.release()  # also one that passes without the lock is noticed
            together.wait()

    teacher.on_batch = on_batch
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(runner.tokens, batches))
    assert begun_in_the_first == [0]
    for batch, rows in zip(batches, results, strict=True):
        expected = teacher(torch.from_numpy(batch))[1].half().numpy()
        np.testing.assert_array_equal(np.stack(rows), expected)
    assert runner.provenance["machine"] == "here"


def test_too_little_memory_is_reported(teacher: Counting) -> None:
    teacher.full = True
    with pytest.raises(errors.JobFailed, match=r"a batch of 2 rows is too much\. Pass a smaller --batch-size"):
        TeacherRunner("t", teacher, provenance={}).tokens(np.zeros((2, 28, 28, 3), np.uint8))
