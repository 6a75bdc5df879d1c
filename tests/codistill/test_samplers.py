"""Samplers: groups in balance, every row once a pass, shares of ranks, and exact resumption whoever reads ahead."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from codistill.torch import BalancedBatchSampler, CacheDataset, ShuffledBatchSampler
from store import errors
from tests.train.builders import build_cache


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CacheDataset:
    return CacheDataset(build_cache(tmp_path_factory.mktemp("samplers") / "cache").location)  # people 10, scenes 7


def test_groups_have_equal_shares_and_every_row_its_turn(data: CacheDataset) -> None:
    batches = list(BalancedBatchSampler(data, 6, steps=70))
    assert all(sum(index < 10 for index in batch) == 3 for batch in batches)
    for first, last in ((0, 10), (10, 17)):
        drawn = [index for batch in batches for index in batch if first <= index < last]
        counts = np.bincount(drawn, minlength=last)[first:]
        assert counts.min() == counts.max() == len(drawn) // (last - first)
    shuffled = [index for batch in ShuffledBatchSampler(data, 17, steps=3) for index in batch]
    assert np.bincount(shuffled).tolist() == [3] * 17


def test_an_epoch_follows_the_other_and_ranks_share_a_batch(data: CacheDataset) -> None:
    sampler = BalancedBatchSampler(data, 4, steps=3)
    epochs = [list(sampler), list(sampler)]
    assert [len(epoch) for epoch in epochs] == [3, 3]
    assert [batch for epoch in epochs for batch in epoch] == list(BalancedBatchSampler(data, 4, steps=6))
    ranks = [list(BalancedBatchSampler(data, 4, steps=3, rank=rank, world=2)) for rank in (0, 1)]
    for whole, first, second in zip(epochs[0], *ranks, strict=True):
        assert sorted(first + second) == sorted(whole)
    with pytest.raises(errors.InvalidInput, match="multiple of 2"):
        BalancedBatchSampler(data, 3, world=2)


@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")  # of Python 3.12 and later
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_gets_the_batches_of_an_uninterrupted_one(data: CacheDataset, workers: int) -> None:
    def batches(sampler: Any) -> DataLoader[Any]:
        return DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)

    whole = [batch.rows.tolist() for batch in batches(BalancedBatchSampler(data, 4, steps=6, seed=3))]
    sampler = BalancedBatchSampler(data, 4, steps=6, seed=3)
    for batch in batches(sampler):
        if batch.step == 1:
            break
    state = sampler.state_dict(batch)
    assert state["step"] == 2
    if workers:
        with pytest.raises(errors.InvalidInput, match=r"sampler.state_dict\(batch\)"):
            sampler.state_dict()
    else:
        assert sampler.state_dict() == state
    resumed = BalancedBatchSampler(data, 4, steps=6, seed=3)
    resumed.load_state_dict(state)
    assert [batch.rows.tolist() for batch in batches(resumed)] == whole[2:]


def test_a_state_of_other_data_is_refused(data: CacheDataset, tmp_path: Path) -> None:
    state = BalancedBatchSampler(data, 4).state_dict(after=3)
    with pytest.raises(errors.Conflict, match=r"seed.*0.*1"):
        BalancedBatchSampler(data, 4, seed=1).load_state_dict(state)
    fewer = CacheDataset(build_cache(tmp_path / "cache", failed={("faces", "pixels"): [0]}).location)
    with pytest.raises(errors.Conflict, match=r"people.*10.*9"):
        BalancedBatchSampler(fewer, 4).load_state_dict(state)
    with pytest.raises(errors.InvalidInput, match="'seed' is not there"):
        BalancedBatchSampler(data, 4).load_state_dict({"step": 3})
    for bad in (None, "x"):
        with pytest.raises(errors.InvalidInput, match="expected what state_dict returned"):
            BalancedBatchSampler(data, 4).load_state_dict(bad)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="step of the state: expected a whole number, found 'x'"):
        BalancedBatchSampler(data, 4).load_state_dict({**state, "step": "x"})


def test_what_is_no_dataset_or_no_number_is_refused(data: CacheDataset) -> None:
    with pytest.raises(errors.InvalidInput, match="data: expected a CacheDataset, found 3"):
        ShuffledBatchSampler(3, 4)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="batch_size: expected a whole number, found '4'"):
        BalancedBatchSampler(data, "4")  # type: ignore[arg-type]
