"""Samplers of batches, for the `batch_sampler` of a DataLoader: the batch of a step is a function of (seed, step).

Shapes: B images of the global batch.
"""

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler as TorchSampler

from codistill.torch.arguments import checked_number, shown
from codistill.torch.batch import Batch
from codistill.torch.dataset import CacheDataset
from store.common.config import near_miss
from store.errors import Conflict, InvalidInput
from store.format.schema import differences
from train.data.sampler import Sampler, slice_of_rank

ALL = "all rows"


class StepIndices(list[int]):
    """Indices of one step's batch; they know the step, also in a worker.

    Attributes:
        step: number of the step.
    """

    def __init__(self, indices: list[int], step: int, owner: "StepBatchSampler | None" = None) -> None:
        super().__init__(indices)
        self.step = step
        self._owner = None if owner is None else weakref.ref(owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return StepIndices, (list(self), self.step)

    def gathered(self) -> None:
        """Tell the sampler, if it lives in this process, that the batch has been read."""
        owner = None if self._owner is None else self._owner()
        if owner is not None:
            owner.read_up_to = max(owner.read_up_to, self.step + 1)


class StepBatchSampler(TorchSampler[list[int]]):
    """Endless steps in epochs of `len(sampler)`; what the two samplers below have in common.

    Attributes:
        batch_size: images of this rank's batch.
        drop_last: True: all batches are equally large.
        read_up_to: step behind the last batch that was read in this process.
    """

    drop_last = True

    def __init__(
        self,
        data: CacheDataset,
        *,
        groups: Mapping[str, int],
        batch_size: int,
        seed: int,
        steps: int | None,
        start: int,
        rank: int | None,
        world: int | None,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._world = world or (torch.distributed.get_world_size() if distributed else 1)
        self._rank = rank if rank is not None else (torch.distributed.get_rank() if distributed else 0)
        for name, value, least in (("batch_size", batch_size, 1), ("start", start, 0)):
            checked_number(name, value, least=least)
        if steps is not None:
            checked_number("steps", steps, least=1)
        if batch_size % self._world or not 0 <= self._rank < self._world:
            raise InvalidInput(
                f"batch_size {batch_size} on rank {self._rank} of {self._world}: it is the total of all ranks. Choose "
                f"a multiple of {self._world}, and ranks from 0 to {self._world - 1}"
            )
        self._slots = slice_of_rank(batch_size, self._rank, self._world)
        self._sampler = Sampler(seed=seed, batch=batch_size, groups=groups)
        self._firsts = np.concatenate([[0], np.cumsum(list(groups.values()))])[:-1].astype(np.int64)
        self._settings = {"seed": seed, "batch_size": batch_size, "groups": dict(groups), "rows": data.digest}
        self._steps = steps or max(1, len(data) // batch_size)
        self._start = self._drawn = self.read_up_to = start
        self.batch_size = batch_size // self._world

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        first = self._start
        end = (first // self._steps + 1) * self._steps
        self._start = end  # of the next epoch, however far this one is read
        for step in range(first, end):
            self._drawn = max(self._drawn, step + 1)
            yield StepIndices(self.indices(step), step, self)

    def indices(self, step: int) -> list[int]:
        """Return the indices of this rank's batch of a step, sorted, so that each dataset is read in one piece."""
        sample = self._sampler.sample_batch(step)
        indices: list[int] = np.sort((self._firsts[sample.group] + sample.index)[self._slots]).tolist()
        return indices

    def state_dict(self, after: Batch | int | None = None) -> dict[str, Any]:
        """Return where to go on, as plain JSON.

        Args:
            after: the last batch that was trained on, or the number of steps done. Whatever reads ahead (workers of a
                DataLoader, accelerate) has drawn more than that from the sampler. None takes what was read in this
                process.

        Raises:
            InvalidInput: None, and workers read ahead: only the trainer knows how far it is.
        """
        if isinstance(after, Batch):
            if after.step is None:
                raise InvalidInput("this batch was not made by a sampler of codistill: give the number of steps done")
            after = after.step + 1
        if after is None and self._drawn > self.read_up_to:
            raise InvalidInput(
                f"{self._drawn} batches were drawn and read by workers, of which some wait. Give the last batch that "
                "was trained on: sampler.state_dict(batch)"
            )
        return {"step": self.read_up_to if after is None else int(after), **self._settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the next epoch drawn is what is left of that one.

        Raises:
            Conflict: the state is of other data, another seed or another batch size; both values are shown.
            InvalidInput: it is no state of a sampler.
        """
        if not isinstance(state, Mapping):
            raise InvalidInput(f"state of a sampler: expected what state_dict returned, found {shown(state)}")
        unknown = [key for key in ("step", *self._settings) if key not in state]
        if unknown:
            guess = near_miss(unknown[0], list(state))
            raise InvalidInput(
                f"state of a sampler: '{unknown[0]}' is not there{guess}; found {', '.join(state) or 'nothing'}"
            )
        differing = differences({key: state[key] for key in self._settings}, self._settings)
        if differing:
            raise Conflict(f"the state is of another sampler. {'; '.join(differing)}")
        step = checked_number("step of the state", state["step"], least=0)
        self._start = self._drawn = self.read_up_to = step


class BalancedBatchSampler(StepBatchSampler):
    """Batches with equally many images of every group, as our own trainer samples them.

    Each group gives out its rows pass after pass, every pass in another order; small groups have more passes. A batch
    is a function of (seed, step): exact resumption needs the step alone, on another number of ranks too.
    """

    def __init__(
        self,
        data: CacheDataset,
        batch_size: int,
        *,
        seed: int = 0,
        steps: int | None = None,
        start: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Make a sampler.

        Args:
            data: dataset.
            batch_size: images per step over all ranks.
            seed: seed of the order.
            steps: batches of an epoch, `len(sampler)`; None takes as many as the rows fill.
            start: first step.
            rank, world: which part of each batch to give, of how many; None asks torch.distributed. Pass 0 and 1 where
                something else shares out the batches, as accelerate does.

        Raises:
            InvalidInput: a number is out of bounds, or the batch does not divide over the ranks.
        """
        groups = {name: rows for name, rows in _checked(data).groups.items() if rows}
        if len(groups) < len(data.groups):
            empty = ", ".join(name for name, rows in data.groups.items() if not rows)
            raise InvalidInput(f"group {empty} has no usable row to balance with. Leave its datasets out")
        super().__init__(
            data, groups=groups, batch_size=batch_size, seed=seed, steps=steps, start=start, rank=rank, world=world
        )


class ShuffledBatchSampler(StepBatchSampler):
    """Batches of all rows alike: every row exactly once a pass, whatever its group; else as `BalancedBatchSampler`."""

    def __init__(
        self,
        data: CacheDataset,
        batch_size: int,
        *,
        seed: int = 0,
        steps: int | None = None,
        start: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Make a sampler; arguments as for `BalancedBatchSampler`."""
        super().__init__(
            data,
            groups={ALL: len(_checked(data))},
            batch_size=batch_size,
            seed=seed,
            steps=steps,
            start=start,
            rank=rank,
            world=world,
        )


def _checked(data: CacheDataset) -> CacheDataset:
    if not isinstance(data, CacheDataset):
        raise InvalidInput(f"data: expected a CacheDataset, found {shown(data)}")
    return data
