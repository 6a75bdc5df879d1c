"""Epochs of several pair datasets, and batches of them: all functions of seed and number, so resuming needs no state.

Each dataset gives its number of pairs to an epoch: a new permutation every epoch, begun again where it has fewer. An
endless one gives new pairs every epoch. The epoch is shuffled as a whole, and all pairs of a batch have one resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eval.heads.mast3r.correspondences import COUNT
from eval.heads.pairs.batches import PairBatch, collate, resolution_at
from eval.heads.pairs.matches import draw_matches
from eval.heads.pairs.prepare import Augmentation, prepare
from eval.heads.pairs.resize import Size
from eval.heads.pairs.settings import open_datasets, read_pairs_file
from eval.heads.pairs.views import PairDataset
from store.common.stateless_random import key, permute
from store.errors import InvalidInput

EPOCH_SEED = 777


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Datasets and the number of pairs that each gives to an epoch.

    Attributes:
        datasets: the datasets.
        pairs: pairs of each in an epoch.
        seed: decides the order.

    Raises:
        InvalidInput: no datasets, or numbers that do not fit.
    """

    datasets: Sequence[PairDataset]
    pairs: Sequence[int]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.datasets or len(self.datasets) != len(self.pairs) or min(self.pairs) < 1:
            raise InvalidInput(f"{len(self.datasets)} datasets with pairs {list(self.pairs)}: expected 1 or more each")

    def __len__(self) -> int:
        """Number of pairs of an epoch."""
        return sum(self.pairs)

    def item(self, epoch: int, position: int) -> tuple[int, int]:
        """Return the number of a dataset and of its pair.

        Args:
            epoch: from 0.
            position: from 0 to `len` - 1.
        """
        if not 0 <= position < len(self) or epoch < 0:
            raise InvalidInput(f"epoch {epoch}, position {position}: expected positions below {len(self)}")
        place = _permuted(position, len(self), key("pairs epoch", self.seed, epoch + EPOCH_SEED))
        ends = np.cumsum(self.pairs)
        number = int(np.searchsorted(ends, place, side="right"))
        within = place - (int(ends[number]) - self.pairs[number])
        size = len(self.datasets[number])
        stream = key("pairs dataset", self.seed, epoch + EPOCH_SEED, number)
        return number, _permuted(within % size, size, stream)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatches:
    """Batches of a mixture.

    Attributes:
        mixture: datasets and their numbers.
        batch: pairs of a batch; what is left at the end of an epoch comes with the next one.
        resolutions: (width, height) to draw from, once a batch.
        augmentation: what is random in a pair.
        matches: correspondences of a pair.
        seed: decides resolutions and augmentation.
    """

    mixture: Mixture
    batch: int
    resolutions: Sequence[Size]
    augmentation: Augmentation = field(default_factory=Augmentation)
    matches: int = COUNT
    seed: int = 0

    def resolution(self, step: int) -> Size:
        """Return the resolution of a step's batch."""
        return resolution_at(self.resolutions, seed=self.seed, step=step)

    def load(self, step: int, *, rank: int = 0, world: int = 1) -> PairBatch:
        """Return the batch of a step, or a rank's share of it; a function of seed and step.

        Args:
            step: from 0.
            rank: number of this process ...
            world: ... of so many, which divides `batch`.

        Raises:
            InvalidInput: a pair that cannot be used, or a batch that ranks cannot share evenly.
            MissingFile: a file of a pair is not there.
        """
        if self.batch < 1 or self.batch % world or step < 0:
            raise InvalidInput(
                f"batch {self.batch} for {world} processes, step {step}: expected equal shares, step >= 0"
            )
        share = self.batch // world
        first = step * self.batch + rank * share
        resolution = self.resolution(step)
        pairs, matches = [], []
        for number in range(first, first + share):
            epoch, position = divmod(number, len(self.mixture))
            dataset, index = self.mixture.item(epoch, position)
            rng = np.random.default_rng(key("pair", self.seed, epoch, position))
            pair = self.mixture.datasets[dataset].pair(index, rng)
            pairs.append(prepare(pair, resolution, rng, self.augmentation))
            matches.append(draw_matches(pairs[-1], rng, count=self.matches))
        return collate(pairs, matches)


def open_mixture(path: Path, *, seed: int = 0) -> Mixture:
    """Open the datasets of a PAIRS.toml; raises as `read_pairs_file` and `open_datasets`."""
    file = read_pairs_file(path)
    return Mixture(datasets=open_datasets(file), pairs=[entry.pairs for entry in file.dataset], seed=seed)


def _permuted(position: int, size: int, stream: int) -> int:
    """Return where a position goes in the permutation of range(size) that belongs to a key."""
    moved = permute(
        np.array([position], dtype=np.int64), size=np.array([size]), keys=np.array([stream], dtype=np.uint64)
    )
    return int(moved[0])
