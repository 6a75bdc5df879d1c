"""Epochs and batches of a mixture are functions of seed and number."""

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch

from eval.heads.pairs import Mixture, Pair, PairBatches
from eval.heads.pairs.batches import ViewBatch
from store.errors import InvalidInput
from tests.eval.heads.pairs.room import room_pairs


@dataclass(frozen=True)
class Counted:
    """A dataset of so many pairs."""

    count: int

    def __len__(self) -> int:
        return self.count

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        return room_pairs().pair(index, rng)


def epoch_of(mixture: Mixture, epoch: int) -> list[tuple[int, int]]:
    return [mixture.item(epoch, position) for position in range(len(mixture))]


def test_each_dataset_gives_its_number_of_pairs() -> None:
    mixture = Mixture(datasets=[Counted(10), Counted(100), Counted(4)], pairs=[10, 30, 10], seed=1)
    items = epoch_of(mixture, 0)
    by_dataset = [[index for number, index in items if number == dataset] for dataset in range(3)]
    assert sorted(by_dataset[0]) == list(range(10))
    assert len(set(by_dataset[1])) == 30  # without repetition
    assert sorted(Counter(by_dataset[2]).values()) == [2, 2, 3, 3]  # begun again
    assert [number for number, _ in items] != sorted(number for number, _ in items)
    assert items == epoch_of(mixture, 0)
    assert items != epoch_of(mixture, 1)
    assert items != epoch_of(Mixture(datasets=mixture.datasets, pairs=mixture.pairs, seed=2), 0)
    seen = {index for epoch in range(8) for number, index in epoch_of(mixture, epoch) if number == 1}
    assert len(seen) > 85  # a new draw every epoch


def test_numbers_that_do_not_fit_are_refused() -> None:
    for datasets, pairs in (([], []), ([Counted(2)], [0]), ([Counted(2)], [1, 1])):
        with pytest.raises(InvalidInput, match="expected 1 or more each"):
            Mixture(datasets=datasets, pairs=pairs)
    with pytest.raises(InvalidInput, match="expected positions below 3"):
        Mixture(datasets=[Counted(2)], pairs=[3]).item(0, 3)


def test_a_batch_is_a_function_of_its_step_and_ranks_share_it() -> None:
    mixture = Mixture(datasets=[room_pairs()], pairs=[6])
    batches = PairBatches(mixture=mixture, batch=4, resolutions=[(42, 28), (28, 28)], matches=32)
    whole = batches.load(1)  # the last two pairs of the first epoch and two of the second
    assert whole.view1.image.shape[1:3] == (batches.resolution(1)[1], batches.resolution(1)[0])
    shares = [batches.load(1, rank=rank, world=2) for rank in range(2)]
    for field in fields(ViewBatch):
        mine = [getattr(share.view2, field.name) for share in shares]
        joined = torch.cat(mine) if isinstance(mine[0], torch.Tensor) else mine[0] + mine[1]
        expected = getattr(whole.view2, field.name)
        assert torch.equal(joined, expected) if isinstance(joined, torch.Tensor) else joined == expected
    assert len(set(whole.view1.instance)) == 4
    assert {batches.resolution(step) for step in range(10)} == {(42, 28), (28, 28)}
    with pytest.raises(InvalidInput, match="expected equal shares"):
        batches.load(0, world=3)
