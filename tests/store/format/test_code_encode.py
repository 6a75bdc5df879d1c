"""Encoding: the nearest codewords whoever searches, no tokens too small or too large, an honest account of noise."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import errors
from store.format import books, distortion
from store.format.code import Code
from store.format.code_encode import Encoder
from store.format.code_fit import fit_code
from store.format.codeword_kernels import compiled
from store.format.codeword_search import (
    half_squares,
    level_search,
    ordered_scores,
    product_search,
    scale_bytes,
)
from tests.store.format.samples import correlated, sample_of

PREFIX_TOKENS, GRID, CHANNELS = 1, (4, 4), 32


def tokens_of(rows: int, seed: int = 0) -> np.ndarray:
    values = correlated(rows + seed, CHANNELS, patch_grid=(1, 17), power=1.0)[seed:]
    return (values * 2 + 1).astype(np.float16)


@cache
def made(ratio: float = 4.0) -> Code:
    return fit_code(sample_of(tokens_of(200), prefix_tokens=PREFIX_TOKENS, patch_grid=GRID), ratio=ratio)


@settings(max_examples=30, deadline=None)
@given(
    size=st.sampled_from(books.SIZES),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 30.0, 1e8]),
    ties=st.booleans(),
)
def test_every_search_finds_the_first_of_the_nearest_codewords(size: int, seed: int, scale: float, ties: bool) -> None:
    book = books.load()[size]
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((300, size)) * scale).astype(np.float32)
    if ties:  # halfway between codewords, where rounding decides
        values = ((book[rng.integers(0, 256, 300)] + book[rng.integers(0, 256, 300)]) / 2).astype(np.float32)
    expected = ordered_scores(values, book).argmax(axis=1)
    np.testing.assert_array_equal(product_search(book)(values), expected)
    kernel, result = compiled(size), np.empty(300, np.uint8)
    assert kernel is not None
    kernel(values, book, half_squares(book), result)
    np.testing.assert_array_equal(result, expected)
    if size == 1:
        chosen, best = book[level_search(book)(values), 0], book[expected, 0]
        assert (np.abs(values[:, 0] - chosen) <= np.abs(values[:, 0] - best) + 1e-6 * (1 + np.abs(values[:, 0]))).all()


@pytest.mark.parametrize(
    ("size", "byte"), [(0.0, 0), (1e-20, 0), (1.0, 128), (2.0**0.02, 128), (2.0**0.04, 129), (8.0, 176), (2.0**-5, 48)]
)
def test_a_scale_is_the_nearest_to_the_root_mean_square(size: float, byte: int) -> None:
    values = np.full((1, 9), size, np.float32) * np.where(np.arange(9) % 2, 1, -1).astype(np.float32)
    assert scale_bytes(values).tolist() == [byte]
    assert scale_bytes(values * np.float32(1e6)).tolist() == [0 if size < 1e-3 else 255]


@pytest.mark.parametrize("special", ["zeros", "means", "largest", "one large token", "smallest"])
def test_no_tokens_are_too_small_or_too_large(special: str) -> None:
    code, tokens = made(), tokens_of(1)
    if special == "means":
        tokens[:] = np.concatenate([code.mean[:1], np.repeat(code.mean[1:], 16, axis=0)])
    elif special == "one large token":
        tokens[0, 5] = 60000
    elif special != "one large token":
        tokens[:] = {"zeros": 0, "largest": -65504, "smallest": 6e-8}[special]
    codes, (measured,) = Encoder(code).encode(tokens, np.array([9]))
    assert np.isfinite(code.decode(codes, np.array([9]))).all()
    assert np.isfinite(measured.sums).all()
    assert np.isfinite(measured.floor).all()
    if special == "one large token":  # does not spoil the others
        others = np.delete(np.arange(17), 5)
        without = tokens_of(1)
        codes_without, _ = Encoder(code).encode(without, np.array([9]))
        decoded = code.decode(np.concatenate([codes, codes_without]), np.array([9, 9]))
        np.testing.assert_array_equal(decoded[0, others], decoded[1, others])


def test_bytes_of_a_row_do_not_depend_on_those_beside_it() -> None:
    code, tokens, rows = made(), tokens_of(5), np.array([3, 800, 5, 6, 3])
    together, distortions = Encoder(code).encode(tokens, rows)
    for index in range(5):
        alone, (measured,) = Encoder(code).encode(tokens[index : index + 1], rows[index : index + 1])
        np.testing.assert_array_equal(alone[0], together[index])
        np.testing.assert_array_equal(measured.sums, distortions[index].sums)


@pytest.mark.parametrize("ratio", [4.0, 17.0])
def test_distortion_is_that_between_true_and_decoded_tokens(ratio: float) -> None:
    code, tokens, rows = made(ratio), tokens_of(60, seed=300), np.arange(60)
    codes, distortions = Encoder(code).encode(tokens, rows)
    merged = distortion.merge(distortions)
    true, decoded = (code.standardised(part.astype(np.float32)) for part in (tokens, code.decode(codes, rows)))
    stored = code.stored_tokens(rows)
    true_patches, patches = true[:, 1:], decoded[:, 1:]
    if stored is not None:
        true_patches, patches = (np.take_along_axis(part, stored[..., None], 1) for part in (true_patches, patches))
    for kind, z, y in (("prefix", true[:, :1], decoded[:, :1]), ("patch", true_patches, patches)):
        z, y = (part.reshape(-1, CHANNELS).astype(np.float64) for part in (z, y))
        assert merged.tokens(kind) == len(z)
        assert merged.noise(kind) == pytest.approx(np.square(z - y).sum() / np.square(z).sum(), rel=2e-2, abs=1e-6)
        assert merged.slope(kind) == pytest.approx((z * y).sum() / np.square(z).sum(), abs=1e-4)
        slopes = (z * y).sum(axis=0) / np.square(z).sum(axis=0)
        assert merged.worst_slope(kind) == pytest.approx(slopes[np.abs(slopes - 1).argmax()], abs=1e-4)
        cosines = (z * y).sum(axis=1) / np.linalg.norm(z, axis=1) / np.linalg.norm(y, axis=1)
        error = np.abs(z - y)
        smooth_l1 = np.where(error < 1, error**2 / 2, error - 0.5).mean()
        assert merged.floors(kind) == pytest.approx((1 - cosines.mean(), smooth_l1), rel=2e-2, abs=1e-6)
        assert merged.cosine_percentile(kind, 1) == pytest.approx(np.percentile(cosines, 1), abs=2 / 128)
    assert merged.problem() == ""


def test_what_no_tokens_can_have_is_a_problem() -> None:
    code, tokens = made(), tokens_of(60)
    _, distortions = Encoder(code).encode(tokens, np.arange(60))
    good = distortion.merge(distortions)
    assert good.problem() == ""
    shrunk, counts, halves = good.sums.copy(), good.cosine.copy(), good.floor.copy()
    shrunk[1, 1] *= 0.9
    counts[1, 200] += 1
    halves[1, 0] += 0.5
    for broken, word in (
        (replace(good, sums=shrunk), "slope of patch tokens is 0.90"),
        (replace(good, sums=good.sums * np.nan), "not finite"),
        (replace(good, cosine=counts), "histogram"),
        (replace(good, floor=halves), "not whole"),
        (replace(good, sums=-good.sums), "negative"),
    ):
        assert word in broken.problem()
    assert distortion.empty(CHANNELS).problem() == ""
    assert np.isnan(distortion.empty(CHANNELS).cosine_percentile("patch", 1))


def test_other_tokens_are_refused() -> None:
    with pytest.raises(errors.InvalidInput, match=r"tokens are float32 \[1, 17, 32\], expected float16 \[1, 17, 32\]"):
        Encoder(made()).encode(tokens_of(1).astype(np.float32), np.array([0]))  # type: ignore[arg-type]
