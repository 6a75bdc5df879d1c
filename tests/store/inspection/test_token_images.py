"""Tokens as colours: known directions, fixed signs, comparable pictures."""

import numpy as np
import pytest

from store import errors
from store.inspection.token_images import levels, norms, pca_basis, pca_rgb, rounding


def test_components_are_the_directions_of_most_variance_with_their_largest_entry_positive() -> None:
    axes = np.diag([4.0, 3.0, 2.0, 1.0])
    basis = pca_basis(np.concatenate([axes, -axes]) + 7.0)
    np.testing.assert_allclose(basis.mean, 7.0)
    np.testing.assert_allclose(basis.components, np.eye(4)[:3], atol=1e-12)
    assert (basis.low, basis.high) == pytest.approx((-4.0, 4.0))


def test_negated_tokens_give_the_same_components_and_opposite_colours() -> None:
    tokens = np.random.default_rng(0).normal(size=(4, 5, 6))
    basis, negated = pca_basis(tokens.reshape(-1, 6)), pca_basis(-tokens.reshape(-1, 6))
    np.testing.assert_allclose(basis.components, negated.components, atol=1e-9)
    difference = pca_rgb(tokens).astype(int) + pca_rgb(-tokens).astype(int) - 255
    assert np.abs(difference).max() <= 1


def test_one_basis_makes_pictures_comparable() -> None:
    tokens = np.random.default_rng(1).normal(size=(2, 4, 4, 8))
    basis = pca_basis(tokens.reshape(-1, 8))
    both = [pca_rgb(image, basis) for image in tokens]
    swapped = tokens[0].copy()
    swapped[0, 0] = tokens[1, 2, 3]
    assert pca_rgb(swapped, basis)[0, 0].tolist() == both[1][2, 3].tolist()
    assert min(picture.min() for picture in both) == 0
    assert max(picture.max() for picture in both) == 255
    assert pca_rgb(tokens[0] * 100, basis).max() == 255  # clipped


def test_few_channels_constant_tokens_and_bad_tokens() -> None:
    assert pca_rgb(np.random.default_rng(2).normal(size=(2, 3, 2))).shape == (2, 3, 3)
    assert set(pca_rgb(np.ones((2, 2, 4))).reshape(-1)) == {128}
    with pytest.raises(errors.InvalidInput, match="finite tokens"):
        pca_basis(np.array([[np.nan, 1.0]]))


def unit_tokens(*shape: int, length: float = 1.0) -> np.ndarray:
    """Tokens of one norm that point anywhere, stored with few digits."""
    tokens = np.random.default_rng(3).normal(size=shape)
    return (length * tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("length", [1e-3, 1.0, 16.0, 1000.0])
@pytest.mark.parametrize("channels", [1, 16, 768])
def test_norms_that_differ_by_rounding_alone_are_one_colour(length: float, channels: int) -> None:
    tokens = unit_tokens(6, 6, channels, length=length)
    values = norms(tokens)
    assert set(levels(values, values.min(), values.max(), resolution=rounding(tokens)).reshape(-1)) == {0.5}
    tokens[2, 3] *= np.float16(1.01)
    values = norms(tokens)
    shown = levels(values, values.min(), values.max(), resolution=rounding(tokens))
    assert (shown.argmax(), shown.max(), shown.min()) == (15, 1.0, 0.0)


def test_tokens_that_are_alike_have_one_colour() -> None:
    """A mean of equal values differs from them in its last digit, which is not a direction of the tokens."""
    for value in (0.1, 0.7, 1000.1):
        assert set(pca_rgb(np.full((3, 3, 5), value)).reshape(-1)) == {128}
    basis = pca_basis(np.full((9, 5), 0.1))
    assert set(pca_rgb(np.random.default_rng(4).normal(size=(2, 2, 5)), basis).reshape(-1)) == {128}


def test_levels_of_one_value_and_beyond_the_range() -> None:
    assert levels(np.array([3.0, 3.0]), 3.0, 3.0).tolist() == [0.5, 0.5]
    assert levels(np.array([-1.0, 0.0, 1.0, 2.0, 9.0]), 0.0, 2.0).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("shape", [(150, 300), (300, 150)])  # fewer tokens than channels, and more
@pytest.mark.parametrize("decay", [0.7, 0.0])  # of the spectrum; without, subspace iteration does not converge
def test_components_of_many_channels_are_those_of_a_singular_value_decomposition(
    shape: tuple[int, int], decay: float
) -> None:
    values = np.random.default_rng(5).normal(size=shape) * np.arange(1, shape[1] + 1) ** -decay
    expected = np.linalg.svd(values - values.mean(axis=0))[2][:3]
    components = pca_basis(values).components
    assert np.abs((components * expected).sum(axis=1)).min() > 1 - 1e-9
    assert all(component[np.abs(component).argmax()] > 0 for component in components)


def test_tokens_that_vary_in_one_direction_have_one_component() -> None:
    line = np.outer(np.linspace(0, 1, 20), np.arange(1.0, 301.0))
    components = pca_basis(line).components
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), [1, 0, 0], atol=1e-12)
