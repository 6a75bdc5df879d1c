"""Which rows a code is calibrated on: groups alike, usable rows only, the same draw for the same names."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from store import errors
from store.format.calibration_draw import Draw, Drawable, draw_sample, rows_wanted

MIXTURE = [
    Drawable(name="large", group="a", images=50_000, views=1),
    Drawable(name="small", group="b", images=400, views=8),
    Drawable(name="tiny", group="b", images=40, views=8),
]


def drawn_from(datasets: Sequence[Drawable], *, wanted: int, usable: int = 1) -> Draw:
    """A draw in which every row's only token holds the position of its dataset, its image and its view."""
    position = {dataset.name: number for number, dataset in enumerate(datasets)}
    views = {dataset.name: dataset.views for dataset in datasets}

    def compute(name: str, rows: Sequence[int]) -> list[np.ndarray | None]:
        return [
            np.array([[position[name], row // views[name], row % views[name]]], np.float16)
            if row % usable == 0
            else None
            for row in rows
        ]

    return draw_sample(datasets, teacher="t", wanted=wanted, prefix_tokens=0, patch_grid=(1, 1), compute=compute)


def test_groups_are_drawn_alike_and_mixed_in_both_halves() -> None:
    draw = drawn_from(MIXTURE, wanted=200)
    assert (draw.images, draw.sample.images, draw.note) == (200, 200, "")
    counts = Counter(draw.sample.tokens[:, 0, 0].tolist())
    assert abs(counts[0] - 100) <= 2
    assert counts[1] > 8 * counts[2] > 0  # by rows
    assert not draw.sample.tokens[:, 0, 2].any()  # first views
    keys = set(zip(draw.sample.tokens[:, 0, 0].tolist(), draw.sample.rows.tolist(), strict=True))
    assert len(keys) == 200
    for half in (0, 1):
        part = Counter(draw.sample.half(half).tokens[:, 0, 0].tolist())
        assert 35 <= part[0] <= 65
    again = drawn_from(MIXTURE, wanted=200)
    assert np.array_equal(draw.sample.rows, again.sample.rows)


def test_rows_without_tokens_are_replaced() -> None:
    draw = drawn_from([Drawable(name="large", group="a", images=5000, views=1)], wanted=300, usable=3)
    assert draw.sample.images == 300
    assert not (draw.sample.rows % 3).any()


def test_a_cache_of_few_images_gives_them_in_several_views() -> None:
    few = [Drawable(name="x", group="a", images=5, views=6), Drawable(name="y", group="b", images=3, views=4)]
    draw = drawn_from(few, wanted=32)
    assert (draw.images, draw.sample.images) == (8, 32)
    assert draw.note == "calibrated on all 8 images, 32 would be better; in 32 views"
    assert len({tuple(token) for token in draw.sample.tokens[:, 0].tolist()}) == 32
    halves = [draw.sample.half(number).tokens[:, 0] for number in (0, 1)]
    assert [set((half[:, 2] % 2).tolist()) for half in halves] == [{0}, {1}]  # other views of the same images
    images = [{tuple(token) for token in half[:, :2].tolist()} for half in halves]
    assert images[0] == images[1]
    all_rows = drawn_from(few, wanted=1000)
    assert all_rows.sample.images == 5 * 6 + 3 * 4


def test_nothing_to_draw_from() -> None:
    with pytest.raises(errors.InvalidInput, match="nothing to calibrate 't' on: no usable row in the training"):
        drawn_from([Drawable(name="x", group="a", images=0, views=1)], wanted=4)


def test_how_many_are_wanted() -> None:
    assert rows_wanted(channels=1024, patches=576) == 1024  # 711 would do for 400 tokens a channel
    assert rows_wanted(channels=1024, patches=64) == 6400
