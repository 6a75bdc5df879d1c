"""Resized and cropped views show what a camera with their intrinsics sees."""

import numpy as np
import pytest

from eval.heads.pairs.resize import contain, cover, oriented_size, resize_image, resize_nearest, resize_view
from tests.eval.heads.pairs.room import room_pairs, room_views, seen_by


def test_depth_of_a_third_of_the_size_is_that_of_the_smaller_camera() -> None:
    boxes, _ = room_pairs(size=(96, 72)).scene(0)
    view = room_views(size=(96, 72))[0]
    smaller = resize_view(view, (32, 24))  # centres of its pixels are centres of pixels of the whole image
    np.testing.assert_allclose(smaller.depthmap, seen_by(smaller, boxes).depthmap, rtol=1e-5)
    assert np.abs(smaller.image.astype(int) - seen_by(smaller, boxes).image).mean() < 6


@pytest.mark.parametrize("target", [(28, 28), (56, 14), (14, 42), (96, 100)])
def test_cover_and_crop_keep_the_geometry(target: tuple[int, int]) -> None:
    boxes, _ = room_pairs().scene(0)
    view = cover(room_views()[0], target)
    assert view.size == target
    again = seen_by(view, boxes)
    assert np.median(np.abs(view.depthmap / again.depthmap - 1)) < 0.01
    assert np.abs(view.image.astype(int) - again.image).mean() < 8


def test_contain_crops_to_whole_patches() -> None:
    boxes, _ = room_pairs().scene(0)
    view = contain(room_views()[0], 60, multiple=14)
    assert view.size == (56, 42)  # 60 x 45 before
    assert np.median(np.abs(view.depthmap / seen_by(view, boxes).depthmap - 1)) < 0.01


def test_filters() -> None:
    ramp = np.arange(8, dtype=np.uint8)[None, :, None].repeat(2, axis=0).repeat(3, axis=2)
    assert resize_image(ramp, (8, 2)).tolist() == ramp.tolist()
    assert resize_nearest(np.arange(6).reshape(1, 6), (2, 1)).tolist() == [[1, 4]]
    assert resize_nearest(np.arange(2).reshape(1, 2), (4, 1)).tolist() == [[0, 0, 1, 1]]


def test_upright_images_get_an_upright_target() -> None:
    rng = np.random.default_rng(0)
    assert oriented_size((448, 336), (500, 600), rng) == (336, 448)
    assert oriented_size((448, 336), (600, 500), rng) == (448, 336)
    assert oriented_size((448, 448), (500, 510), rng) == (448, 448)
    drawn = {oriented_size((448, 336), (500, 510), rng) for _ in range(20)}
    assert drawn == {(448, 336), (336, 448)}
