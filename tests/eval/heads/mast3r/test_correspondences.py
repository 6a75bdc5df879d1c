"""Corresponding pixels of two views of a plane, whose homography is known."""

from dataclasses import replace

import numpy as np
import pytest

from eval.heads.mast3r.correspondences import PosedView, draw, mutual_pixels
from store.errors import InvalidInput

INTRINSICS = np.array([[40.0, 0, 15.5], [0, 40, 11.5], [0, 0, 1]])
DEPTH_M = 2.0


def view_of_a_plane(shift_m: float, *, height: int = 24, width: int = 32) -> PosedView:
    """A camera moved along x that looks straight at the plane z = 2 m."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(INTRINSICS).T
    pose = np.eye(4)
    pose[0, 3] = shift_m
    return PosedView(
        points=rays * DEPTH_M + pose[:3, 3], valid=np.ones((height, width), bool), pose=pose, intrinsics=INTRINSICS
    )


def test_mutual_pixels_follow_the_homography_and_end_at_the_border() -> None:
    one, two = view_of_a_plane(0.0), view_of_a_plane(0.25)  # 0.25 m * 40 px / 2 m = 5 px
    one.valid[3, 20] = two.valid[7, 9] = False
    one.points[3, 20] = np.nan
    pixels1, pixels2 = mutual_pixels(one, two)
    expected = [(x, y) for y in range(24) for x in range(5, 32) if (x, y) not in ((20, 3), (14, 7))]
    assert list(map(tuple, pixels1)) == expected
    assert (pixels1 - pixels2 == (5, 0)).all()


def test_views_that_miss_each_other_match_along_their_borders_unless_told_not_to() -> None:
    views = view_of_a_plane(0.0), view_of_a_plane(10.0)
    pixels1, pixels2 = mutual_pixels(*views)
    assert set(pixels1[:, 0]) == {31}
    assert set(pixels2[:, 0]) == {0}
    assert len(mutual_pixels(*views, clip=False)[0]) == 0


def test_points_behind_the_other_camera_match_nothing() -> None:
    one, two = view_of_a_plane(0.0), view_of_a_plane(0.0)
    turned = np.diag([-1.0, 1, -1, 1])
    assert len(mutual_pixels(one, replace(two, pose=turned, points=two.points @ turned[:3, :3]))[0]) == 0


def test_negatives_fill_up_and_repeat_nothing() -> None:
    one, two = view_of_a_plane(0.0), view_of_a_plane(0.25)
    for shift, count, positives in ((0.25, 200, 100), (0.25, 700, 580), (0.25, 768, 648), (10.0, 256, 0)):
        two = view_of_a_plane(shift)
        drawn = draw(one, two, np.random.default_rng(0), count=count, clip=False)
        assert drawn.matched.sum() == positives
        assert (drawn.pixels1[drawn.matched] - drawn.pixels2[drawn.matched] == (5, 0)).all()
        for pixels in (drawn.pixels1, drawn.pixels2):
            assert len(np.unique(pixels, axis=0)) == len(pixels) == count
        again = draw(one, two, np.random.default_rng(0), count=count, clip=False)
        np.testing.assert_array_equal(drawn.pixels2, again.pixels2)
    with pytest.raises(InvalidInput, match="1 to 768"):
        draw(one, two, np.random.default_rng(0), count=769)
