"""The analyses' pure functions on values known exactly."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from eval.analyses.attention import k_medoids
from eval.analyses.correlation import correlate_updates, pearson, sign_agreement
from eval.analyses.variance import Covariance, components_for, cumulative_explained_variance, merge


def test_explained_variance_of_known_variances() -> None:
    # Plus and minus one unit along each axis: variances in proportion 4 : 3 : 2 : 1, exactly.
    axes = np.diag(np.sqrt([4.0, 3.0, 2.0, 1.0]))
    covariance = Covariance.of(np.concatenate([axes, -axes]) + 100.0)
    curve = cumulative_explained_variance(covariance)
    assert curve == pytest.approx([0.4, 0.7, 0.9, 1.0])
    assert cumulative_explained_variance(covariance, standardised=True) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert [components_for(curve, share) for share in (0.4, 0.5, 0.9, 1.0)] == [1, 2, 3, 4]
    assert not covariance.enough


def test_streamed_covariance_equals_that_of_all_tokens() -> None:
    tokens = np.random.default_rng(0).normal(50.0, 1.0, (300, 6)) @ np.diag([5, 4, 3, 2, 1, 0.1])
    parts = [Covariance.of(part) for part in (tokens[:1], tokens[1:120], tokens[120:120], tokens[120:])]
    merged = merge(parts)
    np.testing.assert_allclose(merged.scatter / merged.count, np.cov(tokens.T, bias=True), rtol=1e-10)
    reference = np.cumsum(PCA().fit(tokens).explained_variance_ratio_)
    np.testing.assert_allclose(cumulative_explained_variance(merged), reference, rtol=1e-9)
    assert merged.enough
    with pytest.raises(ValueError, match="no moments"):
        merge([])


def test_explained_variance_with_dead_channels() -> None:
    assert np.isnan(cumulative_explained_variance(Covariance.of(np.ones((5, 3))))).all()
    tokens = np.stack([np.arange(4.0), np.zeros(4)], axis=1)
    assert cumulative_explained_variance(Covariance.of(tokens), standardised=True) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("scale", "expected"), [(2.5, 1.0), (-0.1, -1.0)])
def test_affine_losses_correlate_by_the_sign_of_their_factor(scale: float, expected: float) -> None:
    losses = np.random.default_rng(0).random(20)
    changes = np.diff(np.stack([losses, scale * losses + 3.0], axis=1), axis=0)
    result = correlate_updates(changes, ("a", "b"), window=10)
    assert result.pearson[:, 0, 1] == pytest.approx([expected, expected])
    assert result.sign_agreement[:, 0, 1] == pytest.approx([(expected + 1) / 2] * 2)
    assert result.first_step.tolist() == [1, 11]
    assert result.mean_pearson()[0, 1] == pytest.approx(expected)


def test_correlation_by_hand_and_without_variance() -> None:
    first, second = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    assert pearson(first, second) == 0.0
    assert sign_agreement(first, second) == 0.5
    assert np.isnan(pearson(np.ones(4), second))
    assert sign_agreement(np.array([0.0, 1.0]), np.array([1.0, 1.0])) == 1.0
    assert np.isnan(sign_agreement(np.zeros(4), second))
    stuck = correlate_updates(np.zeros((4, 2)), ("a", "b"), window=4)
    assert np.isnan(stuck.mean_pearson()).all()


def test_medoids_are_members_of_well_separated_clusters() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    sizes = [30, 20, 10]
    points = np.concatenate(
        [centre + generator.normal(0, 0.3, (n, 2)) for centre, n in zip(centres, sizes, strict=True)]
    )
    medoids, labels = k_medoids(points, 3)
    assert labels.tolist() == [0] * 30 + [1] * 20 + [2] * 10  # largest cluster first
    assert labels[medoids].tolist() == [0, 1, 2]
    for cluster, medoid in enumerate(medoids):
        members = points[labels == cluster]
        totals = np.linalg.norm(members[:, None] - members[None], axis=2).sum(1)
        assert np.linalg.norm(members - points[medoid], axis=1).sum() == pytest.approx(totals.min())


def test_medoids_of_duplicates_and_of_fewer_points_than_asked() -> None:
    medoids, labels = k_medoids(np.ones((4, 2)), 9)
    assert sorted(medoids.tolist()) == [0, 1, 2, 3]
    assert sorted(labels.tolist()) == [0, 1, 2, 3]
