"""Sizes of groups: a ratio is a promise, no byte is wasted, and what cannot be is refused with the largest ratio."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import errors
from store.format import books, code_sizes
from store.format.code_spec import record_bytes
from store.format.token_subset import CELL_PATCHES

SPECTRA = {
    "flat": lambda channels: np.ones(channels),
    "1/i": lambda channels: 1 / np.arange(1.0, channels + 1),
    "steep": lambda channels: np.arange(1.0, channels + 1) ** -1.8,
    "rank 8": lambda channels: np.where(np.arange(channels) < 8, 1.0, 0.0),
}


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(64, 1536),
    ratio=st.sampled_from([4, 8, 16, 32]),
    prefix_tokens=st.integers(0, 1),
    spectrum=st.sampled_from(sorted(SPECTRA)),
)
def test_a_row_never_has_more_bytes_than_the_ratio_promises(
    channels: int, ratio: int, prefix_tokens: int, spectrum: str
) -> None:
    grid = (12, 12)
    kept = code_sizes.kept_patches(ratio, prefix_tokens=prefix_tokens, patch_grid=grid, channels=channels)
    stored, tokens = 144 * kept // CELL_PATCHES, 144 + prefix_tokens
    assert kept == CELL_PATCHES or ratio == 32
    record = code_sizes.record_bytes_for(ratio, tokens, prefix_tokens, channels, stored=stored)
    groups = code_sizes.group_sizes(SPECTRA[spectrum](channels), record)
    assert sum(count for _, count in groups) == channels
    assert all(count > 0 and count % size == 0 for size, count in groups)
    assert [size for size, _ in groups] == sorted({size for size, _ in groups})
    prefix = prefix_tokens * record_bytes(code_sizes.prefix_groups(prefix_tokens, channels))
    assert prefix + stored * record_bytes(groups) <= tokens * channels * 2 / ratio


def all_groups(channels: int, record: int) -> list[tuple[tuple[int, int], ...]]:
    """All groups of few channels that fit in a record, by trying."""
    found = []
    for count in range(1, 4):
        for sizes in combinations(books.SIZES, count):
            for ends in combinations(range(1, channels), count - 1):
                bounds = [0, *ends, channels]
                counts = np.diff(bounds).tolist()
                groups = tuple(zip(sizes, counts, strict=True))
                if all(n % size == 0 for size, n in groups) and record_bytes(groups) <= record:
                    found.append(groups)
    return found


@pytest.mark.parametrize("spectrum", ["flat", "1/i", "steep"])
@pytest.mark.parametrize(("channels", "record"), [(32, 12), (48, 20), (48, 7), (40, 9)])
def test_groups_are_within_two_percent_of_the_best_of_all(spectrum: str, channels: int, record: int) -> None:
    variances = SPECTRA[spectrum](channels)
    best = min(code_sizes.total_noise(variances, groups) for groups in all_groups(channels, record))
    found = code_sizes.group_sizes(variances, record)
    assert code_sizes.total_noise(variances, found) <= 1.02 * best


@pytest.mark.parametrize(
    ("record", "groups"), [(511, ((2, 1012), (4, 12))), (254, ((4, 992), (8, 32))), (126, ((8, 960), (16, 64)))]
)
def test_equal_variances_take_two_groups_that_fill_the_record(record: int, groups: tuple[tuple[int, int], ...]) -> None:
    assert code_sizes.group_sizes(np.ones(1024), record) == groups
    assert record_bytes(groups) == record


def test_sizes_of_a_row_at_336_px() -> None:
    sizes = {}
    for ratio in (4, 8, 16, 32):
        kept = code_sizes.kept_patches(ratio, prefix_tokens=1, patch_grid=(24, 24), channels=1024)
        stored = 576 * kept // CELL_PATCHES
        sizes[ratio] = (stored, code_sizes.record_bytes_for(ratio, 577, 1, 1024, stored=stored))
    assert sizes == {4: (576, 511), 8: (576, 254), 16: (576, 126), 32: (288, 124)}


@pytest.mark.parametrize("ratio", [1.0, 0.5, -8.0, float("nan"), float("inf")])
def test_ratios_that_are_none_are_refused(ratio: float) -> None:
    with pytest.raises(errors.InvalidInput, match="is not a number above 1"):
        code_sizes.kept_patches(ratio, prefix_tokens=1, patch_grid=(24, 24), channels=1024)


@pytest.mark.parametrize(("grid", "channels", "ratio"), [((15, 15), 1024, 32.0), ((2, 2), 64, 64.0)])
def test_a_ratio_that_cannot_be_met_names_the_largest(grid: tuple[int, int], channels: int, ratio: float) -> None:
    def kept(asked: float) -> int:
        return code_sizes.kept_patches(asked, prefix_tokens=1, patch_grid=grid, channels=channels)

    with pytest.raises(errors.InvalidInput, match="cannot be met") as refused:
        kept(ratio)
    largest = float(str(refused.value).partition("the largest is ")[2].split(". ")[0].split()[0])
    assert kept(largest)
    with pytest.raises(errors.InvalidInput, match="cannot be met"):
        kept(largest + 0.02)


def test_a_record_that_is_too_small_says_what_it_needs() -> None:
    with pytest.raises(errors.InvalidInput, match="1024 channels do not fit in a record of 64 bytes: at least 65"):
        code_sizes.group_sizes(np.ones(1024), 64)
