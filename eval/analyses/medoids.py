"""k-medoids by alternation: the k most typical of many vectors, each one of them (Fig. 9)."""

import numpy as np


def k_medoids(points: np.ndarray, k: int, *, seed: int = 0, max_rounds: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points around k of them, by Euclidean distance.

    Begins as k-means++ does, then alternates assignment and choice of the member with the least total distance to
    its cluster, until nothing changes. Scikit-learn-extra, which the paper used, is unmaintained.

    Args:
        points: (N, C).
        k: how many medoids; at most N are returned.
        seed: of the beginning.
        max_rounds: a bound; alternation ends by itself long before.

    Returns:
        Indices of the medoids, int64 (k,), largest cluster first, and the cluster of every point, int64 (N,).
    """
    values = np.asarray(points, np.float64)
    k = min(k, len(values))
    distances = _distances(values)
    medoids = _spread_out(distances, k, seed=seed)
    for _ in range(max_rounds):
        labels = _assign(distances, medoids)
        updated = medoids.copy()
        for cluster in range(k):
            members = np.flatnonzero(labels == cluster)
            if len(members):
                totals = distances[np.ix_(members, members)].sum(1)
                updated[cluster] = members[totals.argmin()]
        if np.array_equal(updated, medoids):
            break
        medoids = updated
    labels = _assign(distances, medoids)
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    rank = np.empty(k, dtype=np.int64)
    rank[order] = np.arange(k)
    return medoids[order], rank[labels]


def _assign(distances: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    """The nearest medoid of every point; a medoid belongs to itself even among duplicates."""
    labels = np.asarray(distances[:, medoids].argmin(1))
    labels[medoids] = np.arange(len(medoids))
    return labels


def _distances(values: np.ndarray) -> np.ndarray:
    squares = (values * values).sum(1)
    squared = squares[:, None] + squares[None, :] - 2.0 * values @ values.T
    np.fill_diagonal(squared, 0.0)
    return np.asarray(np.sqrt(squared.clip(min=0.0)))


def _spread_out(distances: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """k distinct points, each drawn with a chance in proportion to its squared distance to those chosen before."""
    generator = np.random.default_rng(seed)
    chosen = [int(distances.sum(1).argmin())]
    while len(chosen) < k:
        weight = distances[:, chosen].min(1) ** 2
        weight[chosen] = 0.0
        if weight.sum() <= 0:  # only duplicates are left
            weight = np.ones(len(distances))
            weight[chosen] = 0.0
        chosen.append(int(generator.choice(len(distances), p=weight / weight.sum())))
    return np.array(chosen, dtype=np.int64)
