"""Linear classification of pooled features: multinomial logistic regression, its strength chosen on held-out data.

Shapes: N training vectors, M test vectors, D channels. Source: the linear evaluation of CLIP (L-BFGS, one L2 strength,
chosen on a part of the training set that is then put back).
"""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.probes.settings import LinearSettings
from store.errors import InvalidInput


def evaluate(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, *, settings: LinearSettings
) -> dict[str, float]:
    """Train on (N, D), test on (M, D).

    Returns:
        `top1` on the test set in percent, the chosen `strength`, `held_out_top1` that it was chosen by.

    Raises:
        InvalidInput: a class with a single training vector, or only one class.
    """
    counts = np.bincount(train_labels)
    if (counts > 0).sum() < 2 or counts[counts > 0].min() < 2:
        raise InvalidInput("linear probe: expected two classes at least, with two training images each at least")
    if len(settings.strengths) > 1:
        size = max(settings.held_out, (counts > 0).sum() / len(train))
        splitter = StratifiedShuffleSplit(n_splits=1, test_size=size, random_state=settings.seed)
        fit, held = next(splitter.split(train, train_labels))
        scores = {
            strength: _top1(_fitted(train[fit], train_labels[fit], strength, settings), train[held], train_labels[held])
            for strength in settings.strengths
        }
    else:
        scores = dict.fromkeys(settings.strengths, float("nan"))
    best = max(scores, key=lambda strength: scores[strength]) if len(scores) > 1 else settings.strengths[0]
    model = _fitted(train, train_labels, best, settings)
    return {"top1": _top1(model, test, test_labels), "strength": best, "held_out_top1": scores[best]}


def _fitted(vectors: np.ndarray, labels: np.ndarray, strength: float, settings: LinearSettings) -> Any:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=settings.iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound on the time, part of the settings
        return model.fit(vectors, labels)


def _top1(model: Any, vectors: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float(model.score(vectors, labels))
