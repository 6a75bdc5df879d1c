"""Poses against those of the authors' solvers on the same matches, their scale, and matches that give no pose."""

from typing import Any

import numpy as np
import pytest

from eval.heads.geometry import solvers
from eval.heads.geometry.poses import PoseEstimate
from eval.heads.geometry.relative_pose import LOCALISATION_PNP, essential_pose, pnp_pose, with_metric_scale
from store.errors import InvalidInput, MissingExtra
from tests.eval.heads.mast3r.goldens import read, read_json

LIBRARIES = ("opencv", "poselib")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return {name.removesuffix("_64"): tensor.numpy() for name, tensor in read("pose.io").items()}


def errors(estimate: PoseEstimate, golden: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Rotation in degrees, direction of translation in degrees, translation in metres."""
    true = golden["input.t_gt"]
    turn = (np.trace(estimate.rotation @ golden["input.R_gt"].T) - 1) / 2
    cosine = estimate.translation @ true / np.linalg.norm(estimate.translation) / np.linalg.norm(true)
    angles = [float(np.degrees(np.arccos(np.clip(value, -1, 1)))) for value in (turn, cosine)]
    return angles[0], angles[1], float(np.linalg.norm(estimate.translation - true))


def true_inliers(estimate: PoseEstimate, golden: dict[str, np.ndarray]) -> float:
    return float(estimate.inliers[golden["input.is_inlier"] > 0].mean())


@pytest.mark.parametrize("library", LIBRARIES)
def test_essential_matrix_and_its_scale(golden: dict[str, np.ndarray], library: Any) -> None:
    authors = read_json("pose")
    pixels = golden["input.kpts0"], golden["input.kpts1"]
    cameras = golden["input.K0"], golden["input.K1"]
    estimate = essential_pose(*pixels, *cameras, library=library)
    rotation, direction, _ = errors(estimate, golden)
    assert rotation <= 1.5 * authors["essential"]["rotation_error_deg"]
    assert direction <= 1.5 * authors["essential"]["translation_direction_error_deg"]
    assert true_inliers(estimate, golden) >= 0.95
    assert estimate.confidence == estimate.inliers.sum()
    depth0, depth1 = golden["input.depth0_at_kpts0"], golden["input.depth1_at_kpts1"]
    for rule in ("vote", "mean"):
        metric = with_metric_scale(estimate, *pixels, depth0, depth1, *cameras, rule=rule)  # type: ignore[arg-type]
        assert errors(metric, golden)[2] < 0.3
        assert metric.inliers.sum() <= estimate.inliers.sum()
    cut = with_metric_scale(estimate, *map(np.trunc, pixels), depth0, depth1, *cameras, rule="mean")
    np.testing.assert_array_equal(cut.translation, metric.translation)  # depth is that of the pixel cut to integers
    nothing = with_metric_scale(estimate, *pixels, np.full_like(depth0, np.nan), depth1, *cameras)
    assert "has depth in both views" in nothing.failure
    rotation, direction, _ = errors(
        essential_pose(pixels[0], golden["input.kpts1_clean"], *cameras, library=library), golden
    )
    assert (rotation < 0.01, direction < 0.05) == (True, True)


@pytest.mark.parametrize("library", LIBRARIES)
def test_points_give_a_metric_pose(golden: dict[str, np.ndarray], library: Any) -> None:
    points, camera = golden["input.pts3d_view0"], golden["input.K1"]
    broken = points.copy()
    broken[::50] = np.nan
    for named, given in (({}, points), ({"minimal": "sqpnp", "ransac": LOCALISATION_PNP}, points), ({}, broken)):
        estimate = pnp_pose(given, golden["input.kpts1"], camera, library=library, **named)  # type: ignore[arg-type]
        rotation, _, translation = errors(estimate, golden)
        assert (rotation < 0.2, translation < 0.02) == (True, True)
        assert not estimate.inliers[~np.isfinite(given).all(axis=1)].any()
        assert estimate.matrix[:3, 3] == pytest.approx(estimate.translation)
    assert true_inliers(pnp_pose(points, golden["input.kpts1"], camera, library=library), golden) >= 0.95
    rotation, direction, _ = errors(pnp_pose(points, golden["input.kpts1_clean"], camera, library=library), golden)
    assert (rotation < 0.01, direction < 0.05) == (True, True)


@pytest.mark.parametrize("library", LIBRARIES)
def test_matches_without_a_pose_say_why(library: Any) -> None:
    camera, few = np.diag([100.0, 100, 1]), np.zeros((4, 2))
    assert essential_pose(few, few, camera, camera, library=library).failure == "4 matches, at least 5 are needed"
    nothing = pnp_pose(np.zeros((0, 3)), np.zeros((0, 2)), camera, library=library)
    assert nothing.failure == "0 matches, at least 4 are needed"
    assert np.isnan(nothing.translation).all()
    far = np.full((9, 3), np.nan)
    assert "0 matches of 9 that are finite" in pnp_pose(far, np.zeros((9, 2)), camera, library=library).failure
    one_point = essential_pose(np.ones((30, 2)), np.ones((30, 2)), camera, camera, library=library)
    assert one_point.inliers.shape == (30,)  # whatever a library makes of it


def test_input_that_cannot_be() -> None:
    camera, pixels = np.eye(3), np.zeros((9, 2))
    for arguments, expected in (
        ((pixels, pixels, None, camera), "view 0: no intrinsics"),
        ((pixels, pixels, camera, np.zeros((3, 3))), "view 1: expected intrinsics"),
        ((pixels, pixels[:3], camera, camera), "9 and 3 ends of matches"),
        ((pixels, pixels.T, camera, camera), "expected .matches, 2."),
    ):
        with pytest.raises(InvalidInput, match=expected):
            essential_pose(*arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="expected one of opencv, poselib"):
        essential_pose(pixels, pixels, camera, camera, library="colmap")  # type: ignore[arg-type]


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(solvers.importlib, "import_module", absent)
    for library in LIBRARIES:
        with pytest.raises(MissingExtra, match=r"codistill\[heads\]"):
            essential_pose(np.zeros((9, 2)), np.zeros((9, 2)), np.eye(3), np.eye(3), library=library)  # type: ignore[arg-type]
