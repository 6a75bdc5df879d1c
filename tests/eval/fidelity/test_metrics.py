"""Fidelity's scores by hand, its intervals, and the linear map from other encoders."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from eval.fidelity import bootstrap
from eval.fidelity.linear_map import NormalEquations
from eval.fidelity.metrics import SUMS, row_sums, scores


def stacked(sums: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([sums[name] for name in SUMS], axis=-1)


def test_sums_and_scores_by_hand() -> None:
    target = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    prediction = torch.tensor([[[3.0, 4.0], [2.0, 0.5]]])
    sums = row_sums(prediction, target)
    # second token: cosine = 1 / (|(2, .5)| * 2) * 1; errors (2, -1.5): smooth-L1 (1.5 + 1) / 2, squares (4 + 2.25) / 2
    assert sums["tokens"] == pytest.approx([2.0])
    assert sums["cosine"] == pytest.approx([1.0 + 0.5 / np.hypot(2.0, 0.5)])
    assert sums["smooth_l1"] == pytest.approx([(1.5 + 1.0) / 2])
    assert sums["squared_error"] == pytest.approx([(4.0 + 2.25) / 2])
    assert sums["power"] == pytest.approx([(9.0 + 16.0) / 2 + (0.0 + 4.0) / 2])
    cosine, smooth_l1, explained = scores(stacked(sums)[0])
    assert cosine == pytest.approx((1.0 + 0.5 / np.hypot(2.0, 0.5)) / 2)
    assert smooth_l1 == pytest.approx(1.25 / 2)
    assert explained == pytest.approx(1 - 3.125 / 14.5)


def test_the_teacher_itself_is_perfect_and_the_mean_token_explains_nothing() -> None:
    target = torch.randn(4, 5, 8)
    assert scores(stacked(row_sums(target, target)).sum(0)) == pytest.approx([1.0, 0.0, 1.0])
    mean = row_sums(torch.zeros_like(target), target, direction=torch.ones(8))
    cosine, _, explained = scores(stacked(mean).sum(0))
    assert explained == 0.0
    assert cosine == pytest.approx(float((target.sum(-1) / target.norm(dim=-1) / np.sqrt(8)).mean()), abs=1e-6)


def test_no_tokens_and_nothing_that_varies_are_nan() -> None:
    assert np.isnan(scores(np.zeros(5))).all()
    assert np.isnan(scores(np.array([2.0, 1.0, 0.5, 0.0, 0.0]))[2])


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = generator.normal(1.0, 2.0, 40)
        sums = np.stack([values, np.ones(40)], axis=1)
        values = bootstrap.replicates(sums, lambda s: s[:, 0] / s[:, 1], count=300, seed=trial)
        low, high = bootstrap.interval(values)
        covered += bool(low <= 1.0 <= high)
    assert 0.88 <= covered / 200 <= 0.99


def test_resampling_images_not_tokens_and_the_same_images_for_the_same_seed() -> None:
    # Two photographs whose thousands of tokens say 0 and 1: the interval must be as wide as two observations warrant.
    sums = np.array([[0.0, 5000.0], [5000.0, 5000.0]])
    values = bootstrap.replicates(sums, lambda s: s[:, 0] / s[:, 1])
    assert bootstrap.interval(values) == (0.0, 1.0)
    shifted = bootstrap.replicates(sums + np.array([500.0, 0.0]), lambda s: s[:, 0] / s[:, 1])
    assert shifted - values == pytest.approx(np.full(1000, 0.1))


def test_linear_map_recovers_a_linear_relation_from_streamed_parts() -> None:
    tokens, weight, bias = torch.randn(400, 6), torch.randn(6, 3), torch.randn(3)
    equations = NormalEquations(6, 3)
    for fold, part in enumerate(tokens.split(50)):
        equations.add(part, part @ weight + bias, fold=fold)
    fitted = equations.solve()
    assert equations.tokens == 400
    assert fitted.ridge == 1e-6
    torch.testing.assert_close(fitted(tokens), tokens @ weight + bias, atol=1e-4, rtol=1e-4)


def test_linear_map_is_ridge_regression_and_chooses_its_ridge_on_other_images() -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(60, 40, generator=generator) + 3.0
    targets = torch.randn(60, 2, generator=generator) + 5.0
    equations = NormalEquations(40, 2)
    for fold in range(4):
        equations.add(tokens[fold::4], targets[fold::4], fold=fold)
    strength = 0.1 * float(tokens.double().var(0, correction=0).mean()) * 60
    reference = Ridge(alpha=strength).fit(tokens.double().numpy(), targets.double().numpy())
    fitted = equations.solve(ridges=[0.1])
    np.testing.assert_allclose(fitted.weight.numpy(), reference.coef_.T, atol=1e-5)
    np.testing.assert_allclose(fitted.bias.numpy(), reference.intercept_, atol=1e-4)
    assert equations.solve().ridge == 10.0  # nothing can be predicted here: the strongest ridge is best


def test_linear_map_with_a_dead_input_channel_is_finite() -> None:
    tokens = torch.cat([torch.randn(50, 2), torch.ones(50, 1)], dim=1)
    equations = NormalEquations(3, 1)
    equations.add(tokens, tokens[:, :1], fold=0)
    assert torch.isfinite(equations.solve()(tokens)).all()
