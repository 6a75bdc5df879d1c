"""Moments against exact rational arithmetic, and merging against the union."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from store import errors
from store.format import kernels, statistics
from store.format.moments import TokenMoments
from store.format.statistics import Moments

FINITE = st.integers(0, 2**16 - 1).filter(lambda bits: bits & 0x7C00 != 0x7C00)


def moments_of(*rows: np.ndarray) -> Moments:
    """Moments of rows of equal shape [N, C]."""
    tokens, channels = rows[0].shape
    moments = TokenMoments(prefix_tokens=0, tokens=tokens, channels=channels, rows=len(rows))
    assert all(moments.add(row) for row in rows if tokens)
    return moments.result()[1]


def exact(values: np.ndarray) -> tuple[Fraction, Fraction]:
    """Mean and sum of squared deviations, without rounding."""
    numbers = [Fraction(float(value)) for value in values]
    mean = sum(numbers, Fraction(0)) / len(numbers)
    return mean, sum(((number - mean) ** 2 for number in numbers), Fraction(0))


@settings(max_examples=60, deadline=None)
@given(
    bits=arrays(np.uint16, st.tuples(st.integers(1, 2), st.integers(1, 150), st.integers(1, 3)), elements=FINITE),
    signs=st.sampled_from([0xFFFF, 0x7FFF]),
)
def test_moments_of_any_float16_are_right(bits: np.ndarray, signs: int) -> None:
    rows = (bits & np.uint16(signs)).view(np.float16)
    moments = moments_of(*rows)
    tokens = rows.reshape(-1, rows.shape[-1])
    for channel in range(tokens.shape[1]):
        mean, m2 = exact(tokens[:, channel])
        largest = float(np.abs(tokens[:, channel]).max())
        assert abs(float(Fraction(moments.mean[channel]) - mean)) <= 1e-14 * largest
        assert abs(float(Fraction(moments.m2[channel]) - m2)) <= 1e-11 * float(m2)
    np.testing.assert_array_equal(moments.min, tokens.min(axis=0).astype(np.float64))
    np.testing.assert_array_equal(moments.max, tokens.max(axis=0).astype(np.float64))


@settings(max_examples=40, deadline=None)
@given(bits=arrays(np.int16, st.tuples(st.integers(1, 150), st.integers(2, 40))))
def test_compiled_and_numpy_sums_are_the_same_bits(bits: np.ndarray) -> None:
    compiled, channels = kernels.compiled(), bits.shape[1]
    assert compiled is not None
    results = []
    for measure in (compiled, kernels.interpreted(channels)):
        into = (np.full((2, channels), np.nan), np.full(channels, 7, np.int16), np.full(channels, 7, np.uint16))
        measure(bits, *into)
        results.append(into)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
def test_a_row_that_is_not_finite_is_not_added(bad: float) -> None:
    row = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float16)
    broken = row.copy()
    broken[150, 1] = bad
    moments = TokenMoments(prefix_tokens=1, tokens=200, channels=3, rows=3)
    assert [moments.add(each) for each in (row, broken, row)] == [True, False, True]
    prefix, patch = moments.result()
    assert prefix is not None
    assert prefix.agrees(moments_of(row[:1], row[:1]))
    assert patch.agrees(moments_of(row[1:], row[1:]))


def test_a_tiny_spread_about_a_large_mean_is_not_lost() -> None:
    tokens = np.full((100_000, 1), 1000, np.float16)
    tokens[777] = 1000.5
    _, m2 = exact(tokens[:, 0])
    assert moments_of(tokens).m2[0] == pytest.approx(float(m2), rel=1e-12)


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any))
def test_merging_parts_gives_the_moments_of_the_union(sizes: list[int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    parts = [(rng.standard_normal((size, 4)) * 3**i + i).astype(np.float16) for i, size in enumerate(sizes)]
    merged = statistics.merge([moments_of(part) for part in parts])
    union = moments_of(np.concatenate(parts))
    assert merged.agrees(union)
    assert not merged.agrees(moments_of(np.concatenate([*parts, parts[np.argmax(sizes)][:1]])))


def test_a_mixture_weights_datasets_and_not_tokens() -> None:
    rng = np.random.default_rng(0)
    small = rng.standard_normal((10, 3)).astype(np.float16)
    large = (rng.standard_normal((1000, 3)) * 2 + 5).astype(np.float16)
    mixture = statistics.merge([moments_of(small), moments_of(large)], weights=[3, 1])
    sampled = np.concatenate([np.repeat(small, 300, axis=0), large]).astype(np.float64)
    np.testing.assert_allclose(mixture.mean, sampled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(mixture.std, sampled.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(mixture.max, sampled.max(axis=0))
    np.testing.assert_allclose(mixture.count, 1010)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_invalid_weights_are_refused(weights: list[float]) -> None:
    parts = [moments_of(np.ones((2, 1), np.float16))] * 2
    with pytest.raises(errors.InvalidInput, match="for 2 parts"):
        statistics.merge(parts, weights=weights)


def test_stored_form_round_trips() -> None:
    patch = moments_of(np.random.default_rng(0).standard_normal((9, 4)).astype(np.float16))
    prefix, again = statistics.from_stacked(statistics.stacked(None, patch))
    assert prefix is None
    assert again.agrees(patch)


def test_coarse_channels_are_those_whose_rounding_is_a_hundredth_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((4000, 4))
    spread[:, 1] += 30  # spacing 1/64: rounding 0.0045 of the spread
    spread[:, 2] += 100  # spacing 1/16: rounding 0.018 of the spread
    spread[:, 3] = 0
    assert statistics.coarse_channels(moments_of(spread.astype(np.float16))).tolist() == [2]
