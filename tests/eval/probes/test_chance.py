"""Chance levels of the probes against values counted by hand, and against heads that ignore the image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.probes import chance
from eval.probes.datasets import IGNORED, Dense, Folders
from eval.probes.depth import root_mean_squared_error
from eval.probes.segmentation import Confusion


def folders(*labels: int) -> Folders:
    return Folders(root=Path(), images=(), labels=labels, classes=("ant", "bee", "cat"))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ((0, 1, 2, 0, 1, 2), (0, 1, 2, 2), 100 / 3),  # all tie: the mean of all
        ((0, 0, 0, 1, 2), (0, 1, 2, 2), 25.0),  # not the commonest of the test images
        ((0, 0, 0, 1), (1, 1), 0.0),
        ((0, 0, 1, 1, 2), (0, 0, 1, 2), 37.5),
    ],
)
def test_accuracy_of_the_commonest_training_class(
    train: tuple[int, ...], test: tuple[int, ...], expected: float
) -> None:
    level = chance.classification(folders(*train), folders(*test))
    assert level == {"chance_top1": pytest.approx(expected), "classes": len(set(train))}


def dense(folder: Path, labels: list[np.ndarray], *, classes: int = 0) -> Dense:
    paths = []
    for number, array in enumerate(labels):
        paths.append(folder / f"{number}.png")
        Image.fromarray(array).save(paths[-1])
    lookup = np.array([*range(classes), *[IGNORED] * (256 - classes)], dtype=np.uint8)
    return Dense(root=folder, images=tuple(paths), labels=tuple(paths), classes=classes, lookup=lookup)


def test_segmentation_by_one_class_is_scored_as_a_head_is(tmp_path: Path) -> None:
    labels = [np.random.default_rng(n).choice([0, 1, 1, 3, 9], (5, 6)).astype(np.uint8) for n in range(3)]
    confusion = Confusion(5)
    for array in labels:
        confusion.add(np.ones_like(array), np.where(array < 5, array, IGNORED))
    level = chance.segmentation(dense(tmp_path, labels, classes=5))
    assert level["chance_miou"] == pytest.approx(confusion.mean_iou())
    assert level["chance_pixel_accuracy"] == pytest.approx(confusion.pixel_accuracy())
    nothing = chance.segmentation(dense(tmp_path, [np.full((2, 2), 9, np.uint8)], classes=5))
    assert np.isnan(nothing["chance_miou"])


def test_one_depth_is_scored_as_a_head_is(tmp_path: Path) -> None:
    depths = [np.random.default_rng(n).integers(0, 11_000, (6, 8)).astype(np.uint16) for n in range(3)]
    depths.append(np.zeros((6, 8), np.uint16))  # nothing known
    for crop in ((0, 0, 0, 0), (1, 5, 2, 99)):
        level = chance.depth(dense(tmp_path, depths), scored=crop)["chance_rmse"]
        inside = [d / 1000 if not any(crop) else d[1:5, 2:] / 1000 for d in depths[:3]]
        one = np.mean([d[(d > 0.001) & (d < 10)].mean() for d in inside])
        errors = [root_mean_squared_error(np.full(d.shape, one), d / 1000, crop=crop) for d in depths]
        assert level == pytest.approx(np.nanmean(errors))
    assert np.isnan(chance.depth(dense(tmp_path, depths[3:]), scored=(0, 0, 0, 0))["chance_rmse"])
