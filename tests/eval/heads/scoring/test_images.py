"""Sizes of images that the authors' code gives, and cameras that show the same rays afterwards."""

import numpy as np
import pytest

from eval.heads.scoring.images import camera_of_image, fitted, stretched
from store.errors import InvalidInput

CAMERA = np.array([[140.0, 0, 70], [0, 145, 52], [0, 0, 1]])


@pytest.mark.parametrize(
    ("size", "long_side", "patch", "expected"),
    [
        ((540, 720), 518, 14, (378, 518)),  # (width, height) of Map-free
        ((540, 720), 512, 16, (384, 512)),
        ((600, 600), 518, 14, (518, 518)),
        ((600, 600), 512, 16, (512, 384)),  # squares of MASt3R
        ((1000, 300), 518, 14, (518, 154)),
    ],
)
def test_sizes(size: tuple[int, int], long_side: int, patch: int, expected: tuple[int, int]) -> None:
    image = fitted(np.zeros((size[1], size[0], 3), np.uint8), None, long_side=long_side, patch_size=patch)
    assert image.pixels.shape == (expected[1], expected[0], 3)
    assert image.intrinsics is None


def test_pixels_keep_their_rays() -> None:
    x, y = np.meshgrid(np.arange(150), np.arange(100))
    picture = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)  # each pixel holds its place
    image = fitted(picture, CAMERA, long_side=112, patch_size=14)
    assert image.pixels.shape == (70, 112, 3)
    assert image.intrinsics is not None
    u, v = np.meshgrid(np.arange(112), np.arange(70))
    here = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(image.intrinsics).T
    there = np.concatenate([image.pixels[..., :2], np.ones((70, 112, 1))], axis=-1) @ np.linalg.inv(CAMERA).T
    inside = slice(3, -3), slice(3, -3)  # the filter has other neighbours at borders
    np.testing.assert_allclose(here[inside], there[inside], atol=0.55 / 140)  # whole numbers: half a pixel


def test_a_camera_of_another_size_follows_the_image() -> None:
    pixels = np.zeros((50, 75, 3), np.uint8)
    half = camera_of_image(CAMERA, (150, 100), pixels, where="a.jpg")
    np.testing.assert_allclose(half, [[70, 0, 34.75], [0, 72.5, 25.75], [0, 0, 1]])
    assert camera_of_image(CAMERA, None, pixels, where="a.jpg") is CAMERA
    with pytest.raises(InvalidInput, match=r"a\.jpg: intrinsics of 100x150 px, the image has 75x50, another aspect"):
        camera_of_image(CAMERA, (100, 150), pixels, where="a.jpg")


def test_stretched_images_and_what_cannot_be_fitted() -> None:
    assert stretched(np.zeros((370, 1226, 3), np.uint8), long_side=518, patch_size=14).shape == (154, 518, 3)
    with pytest.raises(InvalidInput, match="less than one patch"):
        fitted(np.zeros((5, 900, 3), np.uint8), None, long_side=518, patch_size=14)
    with pytest.raises(InvalidInput, match="positive focal lengths"):
        fitted(np.zeros((50, 50, 3), np.uint8), np.zeros((3, 3)), long_side=28, patch_size=14)
