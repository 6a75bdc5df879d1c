"""Multi-view depth and multi-view pose against exactly known values, and all scoring commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from eval.commands import tasks
from eval.tasks import multiview, prediction_files
from eval.tasks import relocalisation as reloc
from eval.tasks.relocalisation_files import write_submission
from store.common.cli import run
from store.errors import InvalidInput, MissingFile

TRUE = np.array([[2.0, 4.0, 0.0], [8.0, 1.0, 50.0]])
PROGRAM = {
    "relocalisation": tasks.relocalisation,
    "human-mesh": tasks.human_mesh,
    "multiview-depth": tasks.multiview_depth,
    "multiview-pose": tasks.multiview_pose,
}


@pytest.mark.parametrize(
    ("factor", "align", "absrel", "inliers"),
    [(1.02, "none", 2, 100), (1.04, "none", 4, 0), (1.02, "median", 0, 100), (1.04, "median", 0, 100)],
)
def test_depth_off_by_a_factor(factor: float, align: multiview.Alignment, absrel: float, inliers: float) -> None:
    score = multiview.score(TRUE * factor, TRUE, align=align)
    assert (score.absrel, score.inliers) == pytest.approx((absrel, inliers))


def test_depth_is_clipped_after_alignment_and_unknown_pixels_do_not_count() -> None:
    predicted = TRUE * 3
    predicted[0, 2] = np.nan  # unknown in the truth
    predicted[1, 2] = 3e6  # 1e6 m after alignment, 100 m when clipped: twice the true 50 m
    score = multiview.score(predicted, TRUE)
    assert score.absrel == pytest.approx(100 * (1.0 / 5))
    assert score.inliers == pytest.approx(80)


def test_depth_is_resized_by_nearest_pixel_centres() -> None:
    grid = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(multiview.resize_nearest(grid, (4, 6)), grid.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(multiview.resize_nearest(np.arange(4.0)[None], (1, 2)), [[1, 3]])


def test_the_best_number_of_views_is_chosen_by_absrel_and_sets_weigh_the_same() -> None:
    few = multiview.DepthScore(absrel=3.0, inliers=90.0)
    many = multiview.DepthScore(absrel=2.0, inliers=80.0)
    assert multiview.best([few, many]) == many
    table = multiview.summarise_depth({"dtu": [few, few, many, many], "kitti": [many]})
    assert table["dtu"]["absrel"] == 2.5
    assert table["average"] == {"absrel": 2.25, "inliers": 82.5, "samples": 5}


def test_depth_that_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no pixel above 0"):
        multiview.score(TRUE, np.zeros((2, 3)))
    with pytest.raises(InvalidInput, match="1 of 5 scored pixels not finite"):
        multiview.score(np.where(TRUE == 8, np.nan, TRUE), TRUE)
    with pytest.raises(InvalidInput, match="median 0 m"):
        multiview.score(np.zeros((2, 3)), TRUE)


def errors(*degrees: float) -> multiview.PairErrors:
    return multiview.PairErrors(rotation_deg=np.array(degrees), translation_deg=np.zeros(len(degrees)))


@pytest.mark.parametrize(("degrees", "expected"), [(0, 1), (14.5, 16 / 30), (15, 0.5), (30, 1 / 30), (30.01, 0)])
def test_mean_average_accuracy_of_one_error(degrees: float, expected: float) -> None:
    assert multiview.mean_average_accuracy(errors(degrees)) == pytest.approx(expected)
    swapped = multiview.PairErrors(rotation_deg=np.zeros(1), translation_deg=np.array([degrees]))
    assert multiview.mean_average_accuracy(swapped) == pytest.approx(expected)


def test_accuracy_counts_errors_below_15_degrees() -> None:
    assert multiview.accuracy(np.array([0, 14.9, 15, 90])) == 50


def cameras(frames: int = 10, seed: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.random(frames, rng=random).as_matrix()
    poses[:, :3, 3] = random.normal(size=(frames, 3))
    return poses


def test_errors_do_not_depend_on_world_or_scale() -> None:
    true = cameras()
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.from_euler("xyz", (1, 2, 3)).as_matrix(), (4, 5, 6)
    moved = true @ world
    moved[:, :3, 3] *= 7
    pose_errors = multiview.pair_errors(moved, true)
    assert len(pose_errors.rotation_deg) == 45
    np.testing.assert_allclose(pose_errors.rotation_deg, 0, atol=1e-4)
    np.testing.assert_allclose(pose_errors.translation_deg, 0, atol=1e-4)


def test_errors_of_one_turned_camera_are_its_angle() -> None:
    true = cameras(3)
    turned = true.copy()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    turned[2] = turn @ true[2]
    pose_errors = multiview.pair_errors(turned, true)  # pairs (0, 1), (0, 2), (1, 2)
    np.testing.assert_allclose(pose_errors.rotation_deg, [0, 20, 20], atol=1e-6)


def test_translation_direction_is_up_to_sign_and_needs_a_length() -> None:
    true = np.tile(np.eye(4), (2, 1, 1))
    true[1, :3, 3] = (1, 0, 0)
    for shift, expected in (((-3, 0, 0), 0), ((1, 1, 0), 45), ((0, 0, 0), 90)):
        predicted = true.copy()
        predicted[1, :3, 3] = shift
        assert multiview.pair_errors(predicted, true).translation_deg[0] == pytest.approx(expected, abs=1e-6)


def test_poses_that_are_none_are_refused() -> None:
    true = cameras(3)
    with pytest.raises(InvalidInput, match="not rotations"):
        multiview.pair_errors(true * 2, true)
    with pytest.raises(InvalidInput, match="2 frames, the true ones have 3"):
        multiview.pair_errors(true[:2], true)
    with pytest.raises(InvalidInput, match="found shape"):
        multiview.pair_errors(true[0], true)


def test_depth_folders_are_scored(tmp_path: Path) -> None:
    for name in ("kitti/0001", "kitti/0002", "dtu/0001"):
        for folder, array in (("true", TRUE), ("found", np.stack([TRUE * 1.5, TRUE * 1.02]))):
            path = tmp_path / folder / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, depth=array)
    table = prediction_files.score_depths(tmp_path / "found", tmp_path / "true", align="none")
    assert list(table) == ["dtu", "kitti", "average"]
    assert table["average"] == pytest.approx({"absrel": 2, "inliers": 100, "samples": 3})
    (tmp_path / "found" / "dtu" / "0001.npz").unlink()
    with pytest.raises(MissingFile, match=r"dtu/0001\.npz"):
        prediction_files.score_depths(tmp_path / "found", tmp_path / "true")


def write_poses(path: Path, categories: dict[str, dict[str, np.ndarray]]) -> Path:
    path.write_text(json.dumps({c: {s: p.tolist() for s, p in group.items()} for c, group in categories.items()}))
    return path


def test_pose_files_are_scored_per_category(tmp_path: Path) -> None:
    good, other = cameras(4), cameras(4, seed=4)
    true = write_poses(tmp_path / "true.json", {"apple": {"1": good, "2": good}, "car": {"1": other}})
    predicted = write_poses(
        tmp_path / "found.json", {"apple": {"1": good, "2": good}, "car": {"1": cameras(4, seed=9)}}
    )
    table = prediction_files.score_poses(predicted, true)
    assert table["apple"] == {"rra_15": 100, "rta_15": 100, "maa_30": 100}
    assert table["average"]["maa_30"] == (100 + table["car"]["maa_30"]) / 2
    with pytest.raises(InvalidInput, match="'car/1': not in"):
        prediction_files.score_poses(write_poses(tmp_path / "part.json", {"apple": {"1": good, "2": good}}), true)
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(InvalidInput, match=r"expected \{category"):
        prediction_files.score_poses(tmp_path / "list.json", true)


def test_commands_print_and_write_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = tmp_path / "data" / "s1"
    scene.mkdir(parents=True)
    (scene / "poses.txt").write_text("seq1/frame_00000.jpg 1 0 0 0 0 0 0\n")
    (scene / "intrinsics.txt").write_text("seq1/frame_00000.jpg 590 590 269.3 352 540 720\n")
    estimate = reloc.Estimate(pose=reloc.rigid([1, 0, 0, 0], [0.1, 0, 0]), confidence=1.0)
    write_submission(tmp_path / "s.zip", {"s1": {"seq1/frame_00000.jpg": estimate}})
    poses = write_poses(tmp_path / "poses.json", {"apple": {"1": cameras(3)}})
    mesh = tmp_path / "mesh.npz"
    vertices = np.random.default_rng(0).normal(size=(1, 9, 3))
    np.savez(mesh, image=["a"], joints2d=vertices[:, :4, :2] * 100, vertices=vertices, root=vertices[:, 0])
    depth = tmp_path / "depth" / "kitti"
    depth.mkdir(parents=True)
    np.savez(depth / "1.npz", depth=TRUE)
    calls = [
        ["relocalisation", str(tmp_path / "s.zip"), "--data", str(tmp_path / "data")],
        ["human-mesh", str(mesh), "--true", str(mesh)],
        ["multiview-depth", str(depth.parent), "--true", str(depth.parent)],
        ["multiview-pose", str(poses), "--true", str(poses)],
    ]
    for call in calls:
        out = tmp_path / f"{call[0]}.json"
        assert run("codistill eval", "score", PROGRAM, argv=[*call, "--out", str(out)]) == 0
        assert json.loads(out.read_text())
    text = capsys.readouterr().out
    for line in ("median_vcre_px 21.63", "f1 100", "absrel 0", "maa_30 100"):
        assert line in " ".join(text.split()), text
    assert run("codistill eval", "score", PROGRAM, argv=[*calls[0], "--out", str(tmp_path / "poses.json")]) == 2
    assert "exists" in capsys.readouterr().err
