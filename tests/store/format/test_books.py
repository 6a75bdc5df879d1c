"""The shipped codebooks: as good as promised on noise that they were not made of, and the script that makes them."""

import numpy as np
import pytest

from store.format import books, make_books

PROMISED = {1: 0.0001, 2: 0.0084, 4: 0.0985, 8: 0.326, 16: 0.585}


@pytest.mark.parametrize("size", books.SIZES)
def test_books_keep_their_distortion_on_fresh_noise(size: int) -> None:
    noise = np.random.default_rng(7).standard_normal((2**20 // size, size), dtype=np.float32)
    book = books.load()[size]
    assert book.shape == (256, size)
    found = make_books.distortion(noise, book)
    assert found <= PROMISED[size]
    assert found == pytest.approx(books.DISTORTION[size], rel=0.02)
    decoded = book[make_books.nearest_codewords(noise, book)].astype(np.float64)
    slope = (noise * decoded).sum() / np.square(noise, dtype=np.float64).sum()
    assert slope == pytest.approx(1 - found, abs=0.003)  # hence the gain 1 / (1 - D) and the noise D / (1 - D)


def test_levels_ascend_so_that_a_search_can_bisect() -> None:
    assert (np.diff(books.load()[1][:, 0]) > 0).all()


def test_a_step_of_the_script_moves_codewords_to_the_means_of_their_samples() -> None:
    book = np.full((256, 2), 50.0)
    book[:2] = [[-1, 0], [1, 0]]
    noise = np.array([[-2, 0], [-4, 2], [3, 1]], np.float32)
    moved = make_books.lloyd_step(noise, book)
    np.testing.assert_array_equal(moved[:2], [[-3, 1], [3, 1]])
    np.testing.assert_array_equal(moved[2], [24.5, 25.0])  # without samples: halfway to the codeword that has most


def test_the_script_is_repeatable() -> None:
    first, second = (make_books.make_levels(np.random.default_rng(3), samples=2**12, steps=20) for _ in range(2))
    np.testing.assert_array_equal(first, second)
