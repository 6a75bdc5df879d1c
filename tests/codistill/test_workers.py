"""Workers of a DataLoader, forked and spawned: the same batches, files of their own, memory that is used again."""

import gc
import os
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from codistill.torch import BalancedBatchSampler, Batch, CacheDataset
from codistill.torch.batch import Samples
from codistill.torch.memory import BatchMemory, mapped_pieces
from store import errors
from tests.train.codes import build_coded

# Python 3.12 and later warn whenever a process with threads forks; what is tested here is that nothing of them is used.
pytestmark = pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CacheDataset:
    return CacheDataset(build_coded(tmp_path_factory.mktemp("workers") / "cache", {"alpha": 8.0}), split=None)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_batches_of_one_process_epoch_after_epoch(data: CacheDataset, start: str) -> None:
    sampler = BalancedBatchSampler(data, 4, steps=5)
    expected = [data.batch(sampler.indices(step)).memory.clone() for step in range(10)]
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=data.collate,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=start,
    )
    batches = [batch for _ in range(2) for batch in loader]  # all are kept, so no memory may be used again
    for step, batch in enumerate(batches):
        assert batch.step == step
        reference = Batch(memory=expected[step], layout=batch.layout, teachers=batch.teachers, sources=batch.sources)
        for name in ("pixels", "rows", "datasets"):
            assert torch.equal(getattr(batch, name), getattr(reference, name))
        encoded = torch.from_numpy(batch.sources != 1)  # `held` has float16 tokens
        assert torch.equal(batch.codes["alpha"][encoded], reference.codes["alpha"][encoded])
        assert torch.equal(batch.tokens["beta"], reference.tokens["beta"])
    del loader, batch, batches, reference
    gc.collect()
    assert not mapped_pieces()._by_worker  # shared memory goes with the workers


def test_memory_of_a_worker_is_used_again_once_a_batch_is_gone(data: CacheDataset) -> None:
    sampler = BalancedBatchSampler(data, 4, steps=20)
    loader = DataLoader(
        data, batch_sampler=sampler, collate_fn=data.collate, num_workers=1, multiprocessing_context="fork"
    )
    pieces = 0
    for _ in loader:
        (mapped,) = mapped_pieces()._by_worker.values()
        pieces = max(pieces, *mapped)
    assert pieces < 5  # two that are read ahead, one that is used, and the next


def test_a_forked_worker_uses_nothing_that_its_parent_opened(data: CacheDataset) -> None:
    data.batch([0, 1])
    before = [id(dataset) for dataset in data.datasets]

    def collate(samples: Samples) -> tuple[int, int, bool]:
        here = [id(dataset) for dataset in data.datasets]
        return os.getpid(), data._here().pid, bool(set(here) & set(before))

    loader = DataLoader(data, batch_size=2, collate_fn=collate, num_workers=1, multiprocessing_context="fork")
    worker, opened, shares = next(iter(loader))
    assert worker == opened != os.getpid()
    assert not shares
    assert [id(dataset) for dataset in data.datasets] == before


def test_a_client_of_an_object_store_is_not_forked(data: CacheDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codistill.torch.dataset.LocalStorage", type(None))
    with pytest.raises(errors.InvalidInput, match="multiprocessing_context='spawn'"):
        data._here().in_child()


def test_memory_is_used_again_only_when_no_tensor_is_left_in_it() -> None:
    memory = BatchMemory()
    first, _ = memory.take(64)
    first.fill_(1)
    view = first[8:16]
    del first
    second, _ = memory.take(64)
    second.fill_(2)
    assert view.tolist() == [1] * 8
    del view
    third, _ = memory.take(64)
    assert third.tolist() == [1] * 64  # the first piece again
    assert memory.take(32)[0].shape == (32,)


def test_a_batch_can_be_pickled_moved_and_pinned_anywhere(data: CacheDataset) -> None:
    batch = data.batch([0, 3])
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.pixels, batch.pixels)
    assert (len(again), again.teachers, again.step) == (2, ("alpha", "beta"), None)
    assert batch.to("cpu") is batch
    assert batch.to("meta").codes["alpha"].device.type == "meta"
    assert "2 images on cpu" in repr(batch)
