"""From the outputs of a pair model to a pose, on exact outputs of a made scene; depth of several predictions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.heads.geometry.depth import depth_at, fused_depth
from eval.heads.geometry.two_views import intrinsics_from_points, match_views, two_view_pose
from store.errors import InvalidInput

HEIGHT, WIDTH = 48, 64
CAMERA = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
SHIFT_M = np.array([-0.4, 0.0, 0.0])  # X2 = X1 + t


def scene_points(shift_m: np.ndarray) -> np.ndarray:
    """Points of a slanted, wavy ground seen by a camera moved by -shift, in its own frame."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(CAMERA).T
    depth = np.full((HEIGHT, WIDTH), 2.0)
    for _ in range(60):  # the depth at which the ray meets the ground
        at = rays * depth[..., None] - shift_m
        depth = 2.0 + 0.3 * np.sin(2 * at[..., 0]) + 0.4 * at[..., 1]
    return rays * depth[..., None]


def outputs(points: np.ndarray, world: np.ndarray) -> dict[str, Tensor]:
    """Outputs whose descriptors are a function of the place in the world."""
    generator = np.random.default_rng(0)
    waves = world @ generator.normal(0, 9, (3, 24)) + generator.uniform(0, 6, 24)
    desc = torch.nn.functional.normalize(torch.from_numpy(np.sin(waves)).float(), dim=-1)
    conf = torch.full((1, HEIGHT, WIDTH), 2.0)
    return {"pts3d": torch.from_numpy(points[None]).float(), "desc": desc[None], "desc_conf": conf}


@pytest.fixture(scope="module")
def pair() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    one, two = scene_points(np.zeros(3)), scene_points(SHIFT_M)
    return outputs(one, one), outputs(two, two - SHIFT_M)


@pytest.mark.parametrize("library", ["opencv", "poselib"])
def test_the_pose_of_a_made_pair(pair: tuple[dict[str, Tensor], dict[str, Tensor]], library: Any) -> None:
    matches = match_views(*pair, subsample=4)
    assert len(matches.pixels1) > 60
    depths = pair[0]["pts3d"][0, ..., 2].numpy(), pair[1]["pts3d"][0, ..., 2].numpy()
    for named, tolerance in (({}, 0.03), ({"method": "essential", "depths": depths}, 0.1)):
        estimate = two_view_pose(matches, CAMERA, CAMERA, library=library, **named)  # type: ignore[arg-type]
        np.testing.assert_allclose(estimate.translation, SHIFT_M, atol=tolerance)
        np.testing.assert_allclose(estimate.rotation, np.eye(3), atol=tolerance)
    direction = two_view_pose(matches, CAMERA, CAMERA, method="essential", library=library).translation
    assert np.linalg.norm(direction) == pytest.approx(1)


def test_filters_and_missing_intrinsics(pair: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    matches = match_views(*pair)
    for pixels in (matches.pixels1, matches.pixels2):
        assert (pixels >= 3).all()
        assert (pixels < (WIDTH - 3, HEIGHT - 3)).all()
    none = match_views(*pair, least_confidence=2.5)
    assert "0 matches" in two_view_pose(none, CAMERA, CAMERA).failure
    with pytest.raises(InvalidInput, match="view 1: no intrinsics"):
        two_view_pose(matches, CAMERA, None)
    with pytest.raises(InvalidInput, match="expected pnp or essential"):
        two_view_pose(matches, CAMERA, CAMERA, method="magic")  # type: ignore[arg-type]
    assert intrinsics_from_points(pair[0]["pts3d"][0])[0, 0] == pytest.approx(60, rel=1e-3)


def test_depths_are_brought_to_the_first_scale_and_weighted() -> None:
    first = np.array([[1.0, 2.0, 4.0], [np.nan, 3.0, 0.0]])
    second = np.array([[2.0, 4.0, 8.0], [6.0, np.nan, -1.0]])  # median 5 of 4 known ones, the first's is 2.5
    confidence = np.stack([np.full((2, 3), 1.0), np.full((2, 3), 3.0)])
    found = fused_depth(np.stack([first, second]), confidence)
    np.testing.assert_allclose(found, [[1, 2, 4], [3, 3, 0]])
    confidence[1, 0] = 0
    np.testing.assert_allclose(fused_depth(np.stack([first, first]), confidence)[0], [1, 2, 4])
    for depths, expected in (
        (np.stack([first, np.full((2, 3), np.nan)]), "depth 1 of 2: no pixel"),
        (first, "expected both .K, H, W."),
    ):
        with pytest.raises(InvalidInput, match=expected):
            fused_depth(depths, confidence)


def test_depth_at_pixels() -> None:
    depth = np.array([[1.0, 2.0], [np.nan, 4.0]])
    pixels = np.array([[1.9, 0.9], [0, 1], [1, 1], [2, 0], [-1, 0], [np.nan, 0]])
    assert depth_at(depth, pixels).tolist() == [2, 0, 4, 0, 0, 0]
