"""Map-free relocalisation against values of the benchmark's own functions, and its files."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import RigidTransform, Rotation

from eval.__main__ import main
from eval.tasks import relocalisation as metrics
from eval.tasks import relocalisation_files as files
from store.errors import Damaged, InvalidInput, MissingFile, OutputExists

IDENTITY = RigidTransform.identity()
HUGE = metrics.Camera(fx=500, fy=500, cx=5e5, cy=5e5, width=1_000_000, height=1_000_000)
PHONE = metrics.Camera(fx=590, fy=590, cx=269.3, cy=352, width=540, height=720)
SHIFT = metrics.rigid([1, 0, 0, 0], [0.1, 0, 0])
ROLL = RigidTransform.from_rotation(Rotation.from_euler("z", 5, degrees=True))


@pytest.mark.parametrize(
    ("estimate", "camera", "expected"), [(SHIFT, HUGE, 19.52089), (ROLL, HUGE, 10.85856), (SHIFT, PHONE, 21.63199)]
)
def test_vcre_equals_the_benchmark(estimate: RigidTransform, camera: metrics.Camera, expected: float) -> None:
    assert metrics.vcre_px(estimate, IDENTITY, camera) == pytest.approx(expected, abs=5e-6)


def test_vcre_moves_points_from_the_true_camera_through_the_world_to_the_estimated_one() -> None:
    true = metrics.rigid(Rotation.from_euler("y", 40, degrees=True).as_quat(scalar_first=True), [0.5, -0.2, 1.0])
    assert metrics.vcre_px(true, true, PHONE) == pytest.approx(0, abs=1e-9)
    # A camera that stands 0.1 m to its own side sees what the shifted identity sees, wherever it stands.
    assert metrics.vcre_px(SHIFT * true, true, PHONE) == pytest.approx(21.63199, abs=5e-6)


def test_points_are_clipped_to_the_image_also_behind_the_camera() -> None:
    pixels = metrics.project(np.array([[0, 0, -1], [5, 0, 1], [0, 0, 0], [1, -1, 0]], dtype=float), PHONE)
    np.testing.assert_allclose(pixels, [[269.3, 352], [540, 352], [269.3, 352], [540, 0]])


def test_pose_errors_are_those_of_camera_centres_and_orientations() -> None:
    true = metrics.rigid([1, 0, 0, 0], [0, 0, 2])
    turned = metrics.rigid(ROLL.rotation.as_quat(scalar_first=True), [0, 0, 2])
    opposite = metrics.rigid([0, 0, 0, -3], [0, 0, 2])  # 180 degrees about the optical axis, quaternion not unit
    assert metrics.rotation_error_deg(turned, true) == pytest.approx(5)
    assert metrics.rotation_error_deg(opposite, true) == pytest.approx(180)
    assert metrics.translation_error_m(turned, true) == pytest.approx(0, abs=1e-12)
    facing_away = metrics.rigid([0, 0, 1, 0], [0, 0, 2])  # the centre is at -R^T t: on the other side
    assert metrics.translation_error_m(facing_away, true) == pytest.approx(4)


def test_average_precision_counts_answered_frames_as_recall() -> None:
    correct = np.array([1, 0, 1, 1])
    value = metrics.average_precision(np.array([4, 3, 2, 1]), correct, failures=1)
    assert value == pytest.approx(0.583333, abs=1e-6)
    assert metrics.precision(correct, failures=1) == pytest.approx(0.6)
    # Ties are answered together: 3 of 4 correct at the one threshold, 4 of 5 frames answered.
    assert metrics.average_precision(np.ones(4), correct, failures=1) == pytest.approx(0.75 * 0.8)
    assert metrics.average_precision(np.array([]), np.array([]), failures=3) == 0


@given(st.permutations(range(6)))
def test_average_precision_does_not_depend_on_the_order_of_frames(order: list[int]) -> None:
    confidence, correct = np.array([5.0, 3, 3, 3, 1, 0]), np.array([1, 0, 1, 1, 0, 1])
    expected = metrics.average_precision(confidence, correct, failures=2)
    assert metrics.average_precision(confidence[order], correct[order], failures=2) == pytest.approx(expected)


def test_summary_takes_medians_within_scenes_and_failures_into_all_shares() -> None:
    def error(vcre: float, confidence: float) -> metrics.FrameError:
        return metrics.FrameError(vcre_px=vcre, translation_m=vcre / 400, rotation_deg=1.0, confidence=confidence)

    scenes = {"a": [error(10, 1), error(20, 2), error(200, 3)], "b": [error(60, 4)], "empty": []}
    figures = metrics.summarise(scenes, failures=4)
    assert figures["frames"] == 8
    assert figures["estimated"] == 4
    assert figures["precision_vcre_90px"] == 3 / 8
    assert figures["precision_vcre_45px"] == 2 / 8
    assert figures["precision_pose"] == 3 / 8
    assert figures["median_vcre_px"] == (20 + 60) / 2
    # By confidence: 60 px right, 200 px wrong, then two right.
    assert figures["auc_vcre_90px"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 3 / 4) / 8)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One scene of a reference frame and eleven query frames along x; frames 0, 5 and 10 are scored."""
    scene = tmp_path / "val" / "s00460"
    scene.mkdir(parents=True)
    frames = ["seq0/frame_00000.jpg"] + [f"seq1/frame_{number:05d}.jpg" for number in range(11)]
    poses = [f"{frame} 1 0 0 0 {0.1 * index} 0 0" for index, frame in enumerate(frames)]
    (scene / "poses.txt").write_text("# frame qw qx qy qz tx ty tz\n" + "\n".join(poses) + "\n")
    (scene / "intrinsics.txt").write_text("".join(f"{frame} 590 590 269.3 352 540 720\n" for frame in frames))
    return scene.parent


def test_every_fifth_query_frame_is_scored(dataset: Path) -> None:
    (scene,) = files.read_scenes(dataset)
    assert list(scene.poses) == [f"seq1/frame_{number:05d}.jpg" for number in (0, 5, 10)]
    assert scene.cameras["seq1/frame_00005.jpg"] == PHONE
    np.testing.assert_allclose(scene.poses["seq1/frame_00005.jpg"].translation, [0.6, 0, 0])


def test_a_written_submission_scores_as_what_was_written(dataset: Path, tmp_path: Path) -> None:
    scenes = files.read_scenes(dataset)
    frames = {frame: metrics.Estimate(pose=SHIFT * pose, confidence=2.5) for frame, pose in scenes[0].poses.items()}
    path = tmp_path / "submission.zip"
    files.write_submission(path, {"s00460": frames})
    submission = files.read_submission(path)
    assert submission.skipped == ()
    figures = files.score(scenes, submission)
    assert figures["median_vcre_px"] == pytest.approx(21.63199, abs=5e-6)
    assert figures["median_translation_m"] == pytest.approx(0.1)
    assert figures["precision_vcre_90px"] == figures["auc_vcre_90px"] == 1
    again = tmp_path / "again.zip"
    files.write_submission(again, {"s00460": frames})
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(OutputExists, match=r"submission\.zip' exists"):
        files.write_submission(path, {"s00460": frames})
    with pytest.raises(InvalidInput, match="confidence -1 is negative"):
        files.write_submission(tmp_path / "b.zip", {"s": {"f": metrics.Estimate(pose=SHIFT, confidence=-1)}})


def test_estimates_of_a_method_become_a_submission(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scene,) = files.read_scenes(dataset)
    entries = {f: {"pose": (SHIFT * pose).as_matrix().tolist(), "confidence": 3} for f, pose in scene.poses.items()}
    estimates, submission = tmp_path / "estimates.json", tmp_path / "submission.zip"
    estimates.write_text(json.dumps({scene.name: entries}))
    assert main(["relocalisation", str(estimates), "--write", str(submission)]) == 0  # as for the test set
    assert main(["relocalisation", str(submission), "--data", str(dataset)]) == 0
    assert re.search(r"median_vcre_px +21\.63", capsys.readouterr().out)
    for arguments, message in (([], "nothing to do"), (["--out", "x.json", "--write", "y.zip"], "--out takes figures")):
        assert main(["relocalisation", str(estimates), *arguments]) == 2
        assert message in capsys.readouterr().err
    first = next(iter(entries))
    for broken in ({"pose": [[1, 0], [0, 1]], "confidence": 1}, {"pose": np.diag([2, 1, 1, 1]).tolist()}, {}):
        estimates.write_text(json.dumps({scene.name: {first: broken}}))
        with pytest.raises(InvalidInput, match=rf"scene 's00460', frame '{first}': expected"):
            files.read_estimates(estimates)


def test_unusable_lines_are_skipped_and_their_frames_fail(dataset: Path, tmp_path: Path) -> None:
    lines = [
        "seq1/frame_00000.jpg 1 0 0 0 0.1 0 0 7",
        "seq1/frame_00005.jpg 0 0 0 0 0.6 0 0 7",
        "seq1/frame_00006.jpg 1 0 0 0 0.6 0 nan 7",
        "seq1/frame_00010.jpg 1 0 0 0 0.6 0 0",
        "seq1/frame_00010.jpg 1 0 0 0 0.6 0 0 -1",
        "seq1/frame_00010.jpg 1 0 0 0 0.6 zero 0 1",
        "",
        "# comment",
    ]
    path = tmp_path / "submission.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pose_s00460.txt", "\n".join(lines))
        archive.writestr("readme.md", "not a pose")
    submission = files.read_submission(path)
    assert [line.split(": ")[0] for line in submission.skipped] == [f"pose_s00460.txt line {n}" for n in range(2, 7)]
    assert "quaternion is zero" in submission.skipped[0]
    figures = files.score(files.read_scenes(dataset), submission)
    assert (figures["frames"], figures["estimated"], figures["skipped_lines"]) == (3, 1, 5)
    assert figures["precision_vcre_90px"] == pytest.approx(1 / 3)


def test_a_scene_that_was_not_submitted_fails_as_a_whole_and_a_foreign_one_is_refused(dataset: Path) -> None:
    scenes = files.read_scenes(dataset)
    assert files.score(scenes, files.Submission(scenes={}, skipped=()))["precision_pose"] == 0
    with pytest.raises(InvalidInput, match="scene 's99999'"):
        files.score(scenes, files.Submission(scenes={"s99999": {}}, skipped=()))


def test_bad_files_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no scene in"):
        files.read_scenes(tmp_path / "nowhere")
    with pytest.raises(MissingFile, match=r"none\.zip"):
        files.read_submission(tmp_path / "none.zip")
    (tmp_path / "no.zip").write_bytes(b"pose_s00460.txt")
    with pytest.raises(Damaged, match="not a whole zip"):
        files.read_submission(tmp_path / "no.zip")
    with (dataset / "s00460" / "poses.txt").open("a") as file:
        file.write("seq1/frame_00011.jpg 0 0 0 0 1 1 1\n")
    with pytest.raises(InvalidInput, match="line 14: the quaternion is zero"):
        files.read_scenes(dataset)
