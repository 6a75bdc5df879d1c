"""Order of the rows in a training: the batch of a step as a pure function of (seed, step).

The batches lie one after another on an endless line of slots, and the groups take the slots in turn. A batch therefore
holds equally many images of each group (one more of some where the batch does not divide; of others in the next step)
and always has the same size. A group gives out its rows pass after pass, each pass in another permutation: every row
exactly once per pass. DUNE's released sampler differs: its smaller groups repeat one order per epoch, and a resumption
restarts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from store.common.stateless_random import Int64, key, permute
from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class BatchSample:
    """Rows of the global batch of one step, by group.

    Attributes:
        group: int64 (B,), number of the group of each image.
        index: int64 (B,), position of the image's row in the list of that group's rows.
    """

    group: Int64
    index: Int64


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Samples the global batch of any step in well under a millisecond; holds no state.

    Attributes:
        seed: seed of the run.
        batch: images per step over all ranks.
        groups: name -> number of rows; the order of names is the order of group numbers.
    """

    seed: int
    batch: int
    groups: Mapping[str, int]

    def sample_batch(self, step: int) -> BatchSample:
        """Return the global batch of `step`, counted from 0."""
        slots = step * self.batch + np.arange(self.batch, dtype=np.int64)
        group = slots % len(self.groups)
        turn = slots // len(self.groups)
        size = np.array(list(self.groups.values()), dtype=np.int64)[group]
        pass_number, index = np.divmod(turn, size)
        keys = np.zeros(self.batch, dtype=np.uint64)
        for number, name in enumerate(self.groups):
            of_group = group == number
            for one_pass in np.unique(pass_number[of_group]):
                keys[of_group & (pass_number == one_pass)] = key("rows", self.seed, name, int(one_pass))
        return BatchSample(group=group, index=permute(index, size=size, keys=keys))


def slice_of_rank(batch: int, rank: int, world: int) -> slice:
    """Return the part of the global batch that `rank` of `world` ranks trains on.

    Raises:
        InvalidInput: the ranks cannot have equally many images.
    """
    if batch % world:
        raise InvalidInput(
            f"data.batch: {batch} images do not divide over {world} ranks. Choose a multiple of {world}, "
            f"for example --data.batch {max(batch // world, 1) * world}"
        )
    share = batch // world
    return slice(rank * share, (rank + 1) * share)
