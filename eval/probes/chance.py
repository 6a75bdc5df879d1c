"""Chance levels of the probes: the figures of an answer that ignores the image.

Classification: the class of most training images, for every test image. Segmentation: the commonest class of the test
labels, for every pixel. Depth: one depth for every pixel, the mean over test images of their mean depth. The latter two
know the test set, so a probe that is no better has learnt nothing.
"""

from typing import Any

import numpy as np

from eval.probes.datasets import IGNORED, Dense, Folders, read_depth_mm, read_labels
from eval.probes.depth import MM_PER_M, scored_pixels

PREFIX = "chance_"


def classification(train: Folders, test: Folders) -> dict[str, float]:
    """Compute the accuracy, in percent, of the class that most training images have; the mean of classes that tie.

    Args:
        train: training images.
        test: test images, whose labels are numbers in the classes of `train`.

    Returns:
        `chance_top1`, and the number of `classes` that have training images.
    """
    counts, wanted = (np.bincount(part.labels, minlength=len(train.classes)) for part in (train, test))
    commonest = counts == counts.max()
    return {
        f"{PREFIX}top1": 100 * float(wanted[commonest].mean()) / len(test.labels),
        "classes": int((counts > 0).sum()),
    }


def segmentation(test: Dense) -> dict[str, float]:
    """Compute mean IoU and pixel accuracy, in percent, of the commonest class; NaN without labelled pixels."""
    counts = np.zeros(test.classes, dtype=np.int64)
    for path in test.labels:
        labels = read_labels(path, test.lookup)
        counts += np.bincount(labels[labels != IGNORED], minlength=test.classes)
    share = counts.max() / counts.sum() if counts.any() else np.nan
    present = int((counts > 0).sum())
    return {
        f"{PREFIX}miou": 100 * float(share) / max(present, 1),  # all other classes that occur have an IoU of 0
        f"{PREFIX}pixel_accuracy": 100 * float(share),
        "classes": test.classes,
    }


def depth(test: Dense, *, scored: tuple[int, int, int, int]) -> dict[str, float]:
    """Compute the RMSE of one depth in metres, the mean over images as the probe's; NaN without known depth.

    Args:
        test: test images.
        scored: (top, bottom, left, right) of images that is scored, as in the settings of the probe.
    """
    moments = []
    for path in test.labels:
        true = read_depth_mm(path).astype(np.float64) / MM_PER_M
        known = true[scored_pixels(true, crop=scored)]
        if known.size:
            moments.append((known.mean(), known.var()))
    if not moments:
        return {f"{PREFIX}rmse": float("nan")}
    means, variances = np.array(moments).T
    return {f"{PREFIX}rmse": float(np.sqrt(variances + (means - means.mean()) ** 2).mean())}


def of(kind: str, train: Any, test: Any, settings: Any) -> dict[str, float]:
    """Compute the chance levels of a probe.

    Args:
        kind: `knn`, `linear`, `segmentation` or `depth`.
        train: training part of the dataset.
        test: test part of the dataset.
        settings: settings of the probe.
    """
    if kind == "segmentation":
        return segmentation(test)
    if kind == "depth":
        return depth(test, scored=settings.scored)
    return classification(train, test)
