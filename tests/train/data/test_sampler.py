"""The sampler: each row once per pass, constant balanced batches, ranks partition, a function of (seed, step)."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.common.stateless_random import key, permute, uniforms
from store.errors import InvalidInput
from train.data.sampler import Sampler, slice_of_rank

GROUP_SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def sampler(sizes: list[int], *, batch: int, seed: int = 0) -> Sampler:
    return Sampler(seed=seed, batch=batch, groups={f"g{number}": size for number, size in enumerate(sizes)})


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_bijection(size: int, seed: int) -> None:
    moved = permute(np.arange(size), size=np.full(size, size), keys=np.full(size, key(seed), dtype=np.uint64))
    assert np.array_equal(np.sort(moved), np.arange(size))


def test_permutations_look_random() -> None:
    """Every element reaches every place about equally often, and neighbours part."""
    size, trials = 7, 4000
    counts = np.zeros((size, size))
    for trial in range(trials):
        moved = permute(np.arange(size), size=np.full(size, size), keys=np.full(size, key(trial), dtype=np.uint64))
        counts[np.arange(size), moved] += 1
    assert np.abs(counts / trials - 1 / size).max() < 0.03
    large = permute(np.arange(100_000), size=np.full(100_000, 100_000), keys=np.full(100_000, key(1), dtype=np.uint64))
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.02


def test_uniforms_are_uniform_and_differ_by_stream() -> None:
    first, second = uniforms(key("drop", 0, 0), 50_000), uniforms(key("drop", 0, 1), 50_000)
    assert (first >= 0).all()
    assert (first < 1).all()
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(first.std() - 12**-0.5) < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@given(sizes=GROUP_SIZES, batch=st.integers(1, 17), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_row_once_per_pass(sizes: list[int], batch: int, seed: int) -> None:
    rows_sampler = sampler(sizes, batch=batch, seed=seed)
    steps = range(-(-3 * max(sizes) * len(sizes) // batch) + 1)
    samples = [rows_sampler.sample_batch(step) for step in steps]
    for group, size in enumerate(sizes):
        order = np.concatenate([sample.index[sample.group == group] for sample in samples])
        passes = order[: len(order) // size * size].reshape(-1, size)
        assert len(passes) >= 3
        assert (np.sort(passes, axis=1) == np.arange(size)).all()


@given(sizes=GROUP_SIZES, batch=st.integers(1, 17))
@settings(max_examples=40, deadline=None)
def test_batches_are_balanced_and_of_constant_size(sizes: list[int], batch: int) -> None:
    rows_sampler = sampler(sizes, batch=batch)
    totals = np.zeros(len(sizes))
    for step in range(12):
        counts = np.bincount(rows_sampler.sample_batch(step).group, minlength=len(sizes))
        totals += counts
        assert counts.sum() == batch
        assert counts.max() - counts.min() <= 1
    assert totals.max() - totals.min() <= 1


def test_a_sample_depends_on_seed_and_step_alone() -> None:
    rows_sampler = sampler([50, 20, 30], batch=12)
    later = rows_sampler.sample_batch(7)
    for step in (3, 7, 1):
        rows_sampler.sample_batch(step)
    again = sampler([50, 20, 30], batch=12).sample_batch(7)
    assert np.array_equal(later.index, again.index)
    assert not np.array_equal(later.index, rows_sampler.sample_batch(8).index)
    assert not np.array_equal(later.index, sampler([50, 20, 30], batch=12, seed=1).sample_batch(7).index)


def test_the_order_never_changes() -> None:
    """A resume years later must see the same rows: these numbers are part of the run directory's format."""
    sample = sampler([1000, 10], batch=6, seed=3).sample_batch(100)
    assert sample.group.tolist() == [0, 1, 0, 1, 0, 1]
    assert sample.index.tolist() == [147, 2, 325, 4, 553, 9]


@given(share=st.integers(1, 5), world=st.integers(1, 6))
def test_ranks_partition_the_batch(share: int, world: int) -> None:
    batch = np.arange(share * world)
    parts = [batch[slice_of_rank(len(batch), rank, world)] for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), batch)
    assert len({len(part) for part in parts}) == 1


def test_ranks_that_cannot_share_equally_are_refused() -> None:
    with pytest.raises(InvalidInput, match="10 images do not divide over 4 ranks"):
        slice_of_rank(10, 0, 4)


def test_a_step_of_the_whole_dune_mixture_needs_no_memory_for_its_rows() -> None:
    """The time of a step, at any step, is that of its own rows; `benchmarks.store.scale` measures it."""
    rows_sampler = Sampler(seed=0, batch=512, groups={"dinov2": 18_492_301, "mast3r": 1_748_561, "multihmr": 476_610})
    rows_sampler.sample_batch(0)
    for step in (1, 10_000, 10_000_000):
        tracemalloc.start()
        rows_sampler.sample_batch(step)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 1e6
