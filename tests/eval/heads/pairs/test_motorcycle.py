"""The stereo motorcycle: left pixels land on their colours in the right image, in metres."""

import numpy as np

from eval.heads.pairs.geometry import project, world_points
from eval.heads.pairs.matches import common_pixels
from eval.heads.pairs.motorcycle import BASELINE_M, DOFFS_PX, MotorcyclePair
from eval.heads.pairs.views import PairDataset


def test_left_pixels_keep_their_colour_in_the_right_image() -> None:
    dataset = MotorcyclePair()
    assert isinstance(dataset, PairDataset)
    left, right = dataset.pair(0, np.random.default_rng(0))
    assert left.size == right.size == (741, 500)
    pixels, depth = project(world_points(left)[left.valid], right)
    np.testing.assert_allclose(depth, left.depthmap[left.valid], rtol=1e-5)  # rectified: the same depth
    x, y = np.rint(pixels).astype(int).T
    inside = (x >= 0) & (x < 741)
    np.testing.assert_array_equal(y, np.nonzero(left.valid)[0])
    difference = np.abs(left.image[left.valid][inside].astype(int) - right.image[y[inside], x[inside]]).mean()
    assert difference < 9
    columns = np.nonzero(left.valid)[1]
    wrong = np.clip(2 * columns - x, 0, 740)  # the disparity with the other sign
    assert np.abs(left.image[left.valid].astype(int) - right.image[y, wrong]).mean() > 12


def test_geometry_is_metric() -> None:
    left, right = MotorcyclePair().pair(0, np.random.default_rng(0))
    assert 0.92 < left.valid.mean() < 0.94
    assert 2.0 < left.depthmap[left.valid].min() < 2.2
    assert 4.9 < left.depthmap.max() < 5.1
    assert right.camera_pose[0, 3] == np.float32(BASELINE_M)
    assert np.isclose(right.intrinsics[0, 2] - left.intrinsics[0, 2], DOFFS_PX)
    assert len(common_pixels((left, right), long_side=741)[0]) > 0.7 * 741 * 500
