"""Which rows a step trains on: a pure function of (seed, step).

The batches lie one after another on an endless line of slots that the groups take in turn, so a batch holds equally
many images of each group (one more of some where the batch does not divide, a different one each step) and always
has the same size. A group hands out its rows pass after pass, each pass another permutation: every row exactly once
per pass. Differs from DUNE's released sampler, whose smaller groups repeat one order per epoch and whose resume
restarts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from store.errors import InvalidInput
from train.stateless_random import Int64, key, permute


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The global batch of one step.

    Attributes:
        group: int64 (B,), number of the group of each image.
        index: int64 (B,), which of that group's rows.
    """

    group: Int64
    index: Int64


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws the global batch of any step in well under a millisecond; holds no state.

    Attributes:
        seed: of the run.
        batch: images per step over all ranks.
        groups: rows of each group, by name; the order of names is the order of group numbers.
    """

    seed: int
    batch: int
    groups: Mapping[str, int]

    def draw(self, step: int) -> Draw:
        """The global batch of `step` (0 is the first)."""
        slots = step * self.batch + np.arange(self.batch, dtype=np.int64)
        group = slots % len(self.groups)
        turn = slots // len(self.groups)
        size = np.array(list(self.groups.values()), dtype=np.int64)[group]
        number, place = np.divmod(turn, size)
        keys = np.zeros(self.batch, dtype=np.uint64)
        for position, name in enumerate(self.groups):
            mine = group == position
            for one_pass in np.unique(number[mine]):
                keys[mine & (number == one_pass)] = key("rows", self.seed, name, int(one_pass))
        return Draw(group=group, index=permute(place, size=size, keys=keys))


def slice_of_rank(batch: int, rank: int, world: int) -> slice:
    """The part of the global batch that `rank` of `world` trains on.

    Raises:
        InvalidInput: if the ranks cannot have equally many images.
    """
    if batch % world:
        raise InvalidInput(
            f"data.batch: {batch} images do not divide over {world} ranks. Choose a multiple of {world}, "
            f"for example --data.batch {max(batch // world, 1) * world}"
        )
    share = batch // world
    return slice(rank * share, (rank + 1) * share)
