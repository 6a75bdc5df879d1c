"""Batches of pairs in the order of the steps, read by processes beside the one that trains."""

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from eval.heads.pairs import PairBatch, PairBatches
from store.errors import CodistillError

Place = tuple[int, int]  # step, part


def batches(
    pairs: PairBatches, *, steps: range, own: Sequence[int], parts: int, workers: int
) -> Generator[list[PairBatch]]:
    """Yield the parts of each step that a rank computes; the same ones whoever reads them.

    Args:
        pairs: batches of a mixture.
        steps: steps to do.
        own: numbers of the parts of this rank.
        parts: parts of a step, on all ranks.
        workers: processes that read, at most one a CPU; 0 reads here, when a step asks.

    Raises:
        InvalidInput, MissingFile: see `PairBatches.load`.
    """
    loader = DataLoader(
        _Parts(pairs, parts),
        sampler=_Places(steps, own),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=min(workers, len(os.sched_getaffinity(0))),
        worker_init_fn=_leave_ctrl_c_to_the_trainer,
    )
    read = iter(loader)
    for _ in steps:
        yield [_accepted(next(read)) for _ in own]


class _Parts(Dataset[PairBatch | CodistillError]):
    """Parts of steps. An error is a result, because a worker's exception would arrive as text of a traceback."""

    def __init__(self, pairs: PairBatches, parts: int) -> None:
        self._pairs, self._parts = pairs, parts

    def __getitem__(self, place: Place) -> PairBatch | CodistillError:
        step, part = place
        try:
            return self._pairs.load(step, rank=part, world=self._parts)
        except CodistillError as error:
            return error


class _Places:
    """(step, part) in the order of training, made when asked for."""

    def __init__(self, steps: range, own: Sequence[int]) -> None:
        self._steps, self._own = steps, own

    def __len__(self) -> int:
        return len(self._steps) * len(self._own)

    def __iter__(self) -> Iterator[Place]:
        return ((step, part) for step in self._steps for part in self._own)


def _accepted(result: PairBatch | CodistillError) -> PairBatch:
    if isinstance(result, CodistillError):
        raise result
    return result


def _unchanged(part: Any) -> Any:
    return part


def _leave_ctrl_c_to_the_trainer(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
