"""Random crops: the turned camera sees what is rendered with its intrinsics and pose."""

import numpy as np
import pytest

from eval.heads.pairs.crops import Crop, crop_pair, random_crop, rotation_towards, turn_to_crop
from eval.heads.pairs.matches import common_pixels
from tests.eval.heads.pairs.room import room_pairs, room_views, seen_by


@pytest.mark.parametrize(
    "crop",
    [
        Crop(centre=(20.0, 15.0), scale=1.5, size=(42, 28)),
        Crop(centre=(45.0, 33.0), scale=2.0, size=(28, 42)),
        Crop(centre=(31.5, 23.5), scale=0.5, size=(28, 21)),
    ],
)
def test_a_crop_is_what_the_turned_camera_sees(crop: Crop) -> None:
    boxes, _ = room_pairs().scene(0)
    whole = room_views()[0]
    view = turn_to_crop(whole, crop)
    again = seen_by(view, boxes)
    assert view.size == crop.size
    assert np.allclose(view.camera_pose[:3, 3], whole.camera_pose[:3, 3])
    assert view.valid.mean() > 0.9
    relative = np.abs(view.depthmap / again.depthmap - 1)[view.valid]
    assert np.median(relative) < 0.01
    assert np.quantile(relative, 0.9) < 0.05
    assert np.abs(view.image.astype(int) - again.image)[view.valid].mean() < 8
    assert np.allclose(view.intrinsics[:2, 2], (np.array(crop.size) - 1) / 2)


def test_depth_of_a_crop_follows_the_new_axis() -> None:
    whole = room_views()[0]
    crop = Crop(centre=(6.0, 40.0), scale=3.0, size=(21, 21))
    view = turn_to_crop(whole, crop)
    ray = np.linalg.inv(whole.intrinsics) @ (6.0, 40.0, 1.0)
    assert np.isclose(view.depthmap[10, 10], whole.depthmap[40, 6] * np.linalg.norm(ray), rtol=1e-4)
    turn = rotation_towards(ray)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ ray, [0, 0, np.linalg.norm(ray)], atol=1e-12)


def test_crops_lie_in_the_image_and_zoom_as_documented() -> None:
    view = room_views()[0]  # 64 x 48
    rng = np.random.default_rng(0)
    crops = [random_crop(view, (24, 16), rng) for _ in range(200)]
    cover = 24 / 64  # the width decides
    zooms = np.array([crop.scale for crop in crops]) / cover
    assert zooms.min() >= 1
    assert zooms.max() <= 1 + 48 * (48 - 16) // 16 / 48
    assert zooms.max() > 2.8
    assert (np.log(zooms) < np.log(3) / 2).mean() == pytest.approx(0.5, abs=0.1)
    corners = np.array([np.array(crop.centre) + 0.5 - np.array(crop.size) / crop.scale / 2 for crop in crops])
    ends = np.array([np.array(crop.centre) + 0.5 + np.array(crop.size) / crop.scale / 2 for crop in crops])
    assert corners.min() > -1e-9
    assert (ends <= np.array([64, 48]) + 1e-9).all()
    larger = [random_crop(view, (128, 96), rng).scale / 2 for _ in range(200)]
    assert max(larger) <= 1.1  # the image is smaller than the target


def test_the_two_crops_with_most_in_common_are_taken() -> None:
    pair = room_pairs().pair(1, np.random.default_rng(0))
    sizes = (24, 18), (24, 18)
    chosen, single = [], []
    for seed in range(6):
        best = crop_pair(pair, sizes, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        first, second = (turn_to_crop(view, random_crop(view, (24, 18), rng)) for view in pair)
        chosen.append(len(common_pixels(best, long_side=24)[0]))
        single.append(len(common_pixels((first, second), long_side=24)[0]))
    assert np.mean(chosen) > 1.3 * np.mean(single)
