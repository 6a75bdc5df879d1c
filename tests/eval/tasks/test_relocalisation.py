"""Map-free relocalisation against values of the benchmark's own functions, and its files."""

import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
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
    good = entries[first]
    for broken in (
        {"pose": [[1, 0], [0, 1]], "confidence": 1},
        {"pose": np.diag([2, 1, 1, 1]).tolist()},
        {},
        {"pose": [1, 2], "confidence": 1},
        {**good, "confidence": -1},
        {**good, "confidence": float("nan")},
    ):
        estimates.write_text(json.dumps({scene.name: {first: broken}}))
        with pytest.raises(InvalidInput, match=rf"scene 's00460', frame '{first}': expected"):
            files.read_estimates(estimates)
    for frames, message in (({first: good, "00000.png": good}, "number 0"), ({"first.jpg": good}, "no frame number")):
        estimates.write_text(json.dumps({scene.name: frames}))
        with pytest.raises(InvalidInput, match=message):
            files.read_estimates(estimates)


def submission_of(path: Path, members: Mapping[str, Sequence[str]]) -> files.Submission:
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in members.items():
            archive.writestr(name, "\r\n".join(lines))
    return files.read_submission(path)


def test_unusable_lines_are_skipped_and_their_frames_fail(dataset: Path, tmp_path: Path) -> None:
    lines = [
        "  seq1/frame_00000.jpg 1 0 0 0 0.1 0 0 7 ",
        "seq1/frame_00005.jpg 0 0 0 0 0.6 0 0 7",
        "seq1/frame_00005.jpg 1e-9 0 0 0 0.6 0 0 7",
        "seq1/frame_00006.jpg 1 0 0 0 0.6 0 nan 7",
        "seq1/frame_00010.jpg 1 0 0 0 0.6 0 0",
        "seq1/frame_00010.jpg 1 0 0 0 0.6 0 0 inf",
        "seq1/frame_00010.jpg 1 0 0 0 0.6 zero 0 1",
        "seq1/frame_00010.jpg 1 0 0 0 0.6  0 0 1",  # two spaces
        "seq1/frame_00010.jpg\t1 0 0 0 0.6 0 0 1",
        "seq1/frame_10.jpg 1 0 0 0 0.6 0 0 1",  # the five characters before .jpg are no number
        "",
        "# comment",
        "#seq1/frame_00010.jpg 1 0 0 0 0.6 0 0 1",
    ]
    members = {"pose_s00460.txt": lines, "readme.md": ["not a pose"]}
    submission = submission_of(tmp_path / "submission.zip", members)
    assert [line.split(": ")[0] for line in submission.skipped] == [f"pose_s00460.txt line {n}" for n in range(2, 11)]
    assert "quaternion is zero" in submission.skipped[0]
    figures = files.score(files.read_scenes(dataset), submission)
    assert (figures["frames"], figures["estimated"], figures["skipped_lines"]) == (3, 1, 9)
    assert figures["precision_vcre_90px"] == pytest.approx(1 / 3)


def test_a_negative_confidence_has_no_score_if_its_frame_is_scored(dataset: Path, tmp_path: Path) -> None:
    scenes = files.read_scenes(dataset)
    for frame, scored in ((5, True), (6, False)):
        lines = ["seq1/frame_00000.jpg 1 0 0 0 0.1 0 0 -0.0", f"seq1/frame_{frame:05d}.jpg 1 0 0 0 0.6 0 0 -1"]
        submission = submission_of(tmp_path / "submission.zip", {"pose_s00460.txt": lines})
        if scored:
            with pytest.raises(InvalidInput, match=r"frame_00005\.jpg': confidence -1 is negative"):
                files.score(scenes, submission)
        else:
            assert files.score(scenes, submission)["estimated"] == 1


def test_frames_are_matched_by_their_number_and_the_last_line_counts(dataset: Path, tmp_path: Path) -> None:
    scenes = files.read_scenes(dataset)
    lines = [
        "00000.jpg 1 0 0 0 0.1 0 0 1",
        "seq1/frame_00005.jpg 1 0 0 0 9 9 9 2",
        "seq1/frame_00010.jpg 1 0 0 0 1.1 0 0 3",
        "seq9/frame_00005.png 1 0 0 0 0.6 0 0 4",
        "seq1/frame_00010.jpg 1 0 0 0 9 9 9 5",
        "frame_00010.jpg 1 0 0 0 1.1 0 0 6",
        "00007.jpg 1 0 0 0 9 9 9 8",  # not scored
    ]
    submission = submission_of(tmp_path / "submission.zip", {"pose_s00460.txt": lines})
    figures = files.score(scenes, submission)
    assert (figures["estimated"], figures["frames"], figures["precision_pose"]) == (3, 3, 1)
    files.write_submission(tmp_path / "again.zip", submission.scenes)
    assert files.score(scenes, files.read_submission(tmp_path / "again.zip")) == figures
    for twice in ({"00005.jpg": SHIFT, "seq1/frame_00005.jpg": SHIFT}, {"five": SHIFT}, {"#frame_00005.jpg": SHIFT}):
        frames = {frame: metrics.Estimate(pose=pose, confidence=1) for frame, pose in twice.items()}
        with pytest.raises(InvalidInput, match="in scene 's00460'"):
            files.write_submission(tmp_path / "refused.zip", {"s00460": frames})


def test_true_frames_of_one_number_are_one_frame(dataset: Path) -> None:
    folder = dataset / "s00460"
    frames = ["seq0/frame_00000.jpg", *(f"seq1/frame_{number:05d}.jpg" for number in (2, 3, 5, 7, 11, 13))]
    (folder / "poses.txt").write_text("".join(f"{frame} 1 0 0 0 0 0 {n}\n" for n, frame in enumerate(frames)))
    (folder / "intrinsics.txt").write_text("".join(f"{frame} 590 590 269.3 352 540 720\n" for frame in frames))
    (scene,) = files.read_scenes(dataset)
    assert (list(scene.poses), scene.frames) == (["seq0/frame_00000.jpg", "seq1/frame_00011.jpg"], 7)
    with (folder / "poses.txt").open("a") as file:
        file.write("seq1/frame_00000.jpg 1 0 0 0 0 0 9\n")
    with (folder / "intrinsics.txt").open("a") as file:
        file.write("seq1/frame_00012.jpg 590 590 269.3 352 360 480\n")
    (scene,) = files.read_scenes(dataset)
    assert (list(scene.poses), scene.frames) == (["seq1/frame_00000.jpg", "seq1/frame_00011.jpg"], 7)
    assert scene.poses["seq1/frame_00000.jpg"].translation[2] == 9
    assert {(camera.width, camera.height) for camera in scene.cameras.values()} == {(360, 480)}


def test_a_scene_that_was_not_submitted_counts_with_all_its_frames(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "s00460", dataset / "s00461")
    scenes = files.read_scenes(dataset)
    lines = [f"seq1/frame_{number:05d}.jpg 1 0 0 0 {0.1 * (number + 1)} 0 0 {number}" for number in (0, 5, 10)]
    submission = submission_of(tmp_path / "one.zip", {"pose_s00460.txt": lines})
    figures = files.score(scenes, submission)
    # Of the benchmark's script: 3 of 3 answered, and 11 failures (twelve lines, two of them of frame 0) instead of 3.
    assert (figures["frames"], figures["estimated"]) == (14, 3)
    assert figures["precision_vcre_90px"] == figures["auc_pose"] == pytest.approx(3 / 14)
    assert "'s00461'. All 11 frames count as failures" in files.notes(scenes, submission)[0]
    submission = submission_of(tmp_path / "both.zip", {"pose_s00460.txt": lines, "pose_s00461.txt": []})
    assert files.score(scenes, submission)["precision_pose"] == pytest.approx(3 / 6)
    assert files.notes(scenes, submission) == []
    nothing = files.score(scenes, files.Submission(scenes={}, skipped=()))
    assert (nothing["precision_pose"], nothing["auc_pose"], nothing["frames"]) == (0, 0, 22)
    assert np.isnan(nothing["median_vcre_px"])


def test_other_scenes_and_folders_in_the_zip_are_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = files.read_scenes(dataset)
    lines = ["seq1/frame_00000.jpg 1 0 0 0 0.1 0 0 7"]
    zipped = tmp_path / "submission.zip"
    submission = submission_of(zipped, {"pose_s00460.txt": lines, "pose_s99999.txt": lines, "a/pose_s00001.txt": lines})
    assert files.score(scenes, submission)["precision_pose"] == pytest.approx(1 / 3)
    assert main(["relocalisation", str(zipped), "--data", str(dataset)]) == 0
    told = capsys.readouterr().err
    assert "not scored: 's99999'" in told
    assert "not read: 'a/pose_s00001.txt'" in told
    with pytest.raises(InvalidInput, match="scene 's99999'"):
        files.score(scenes, files.Submission(scenes={"s99999": {}}, skipped=()))
    with pytest.raises(InvalidInput, match=r"'a/pose_s00460\.txt' lies in a folder"):
        submission_of(zipped, {"a/pose_s00460.txt": lines})


def benchmark_counts(poses: str, lines: list[str] | None) -> tuple[list[tuple[float, bool]], int]:
    """Apply the rules a second time: (confidence, whether right) of answered frames, and number of failures."""
    true: dict[int, str] = {}
    for line in poses.splitlines():
        name, *numbers = line.split()
        true[int(name[-9:-4])] = " ".join(numbers)
    if lines is None:
        return [], len(true)
    usable = re.compile(r"[^ #]*(\d{5})[^ #]{4}((?: -?\d+(?:\.\d+)?){7}) (\d+)")
    last = {int(hit[1]): (hit[2].strip(), float(hit[3])) for line in lines if (hit := usable.fullmatch(line))}
    scored = [number for place, number in enumerate(true) if place % 5 == 0]
    answered = [(last[number][1], last[number][0] == true[number]) for number in scored if number in last]
    return answered, len(scored) - len(answered)


@pytest.mark.parametrize("seed", range(20))
def test_random_submissions_are_counted_as_the_benchmark_counts(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    members: dict[str, list[str]] = {}
    answered: list[tuple[float, bool]] = []
    failures = 0
    for index in range(4):
        folder = tmp_path / "val" / f"s{index:05d}"
        folder.mkdir(parents=True)
        numbers = np.flatnonzero(random.random(60) < 0.8)
        names = ["seq0/frame_00000.jpg", *(f"seq1/frame_{number:05d}.jpg" for number in numbers)]
        poses = [f"{name} 1 0 0 0 {random.integers(9)} 0 {random.integers(9)}" for name in names]
        (folder / "poses.txt").write_text("\n".join(poses))
        (folder / "intrinsics.txt").write_text("".join(f"{name} 590 590 269.3 352 540 720\n" for name in names))
        lines = []
        for line in poses:
            name, pose = line.split(" ", 1)
            pose = str(random.choice([pose, pose, "1 1 1 1 50 0 50"]))  # right, or nowhere near
            name = str(random.choice([name, f"other_{name[-9:]}", name[-9:], f"#{name}"], p=[0.7, 0.1, 0.1, 0.1]))
            entry = f"{name} {pose} {random.integers(4)}"
            unusable = [f"{entry} 1", entry.replace(" ", "  "), f"{name} {pose} nan"]
            lines += [str(random.choice([entry, *unusable], p=[0.7, 0.1, 0.1, 0.1]))] * int(random.integers(3))
        random.shuffle(lines)
        submitted = None if index and random.random() < 0.3 else lines
        if submitted is not None:
            members[f"pose_{folder.name}.txt"] = submitted
        right, missing = benchmark_counts("\n".join(poses), submitted)
        answered, failures = answered + right, failures + missing
    figures = files.score(files.read_scenes(tmp_path / "val"), submission_of(tmp_path / "submission.zip", members))
    frames = len(answered) + failures
    levels = [[right for confidence, right in answered if confidence >= level] for level in (3, 2, 1, 0)]
    before = [0, *(len(level) for level in levels)]
    auc = sum((len(level) - n) * np.mean(level) for n, level in zip(before, levels, strict=False) if level) / frames
    assert (figures["estimated"], figures["frames"]) == (len(answered), frames)
    for name in ("vcre_90px", "vcre_45px", "pose"):
        assert figures[f"precision_{name}"] == pytest.approx(sum(right for _, right in answered) / frames)
        assert figures[f"auc_{name}"] == pytest.approx(auc)


def test_bad_files_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no scene in"):
        files.read_scenes(tmp_path / "nowhere")
    with pytest.raises(MissingFile, match=r"none\.zip"):
        files.read_submission(tmp_path / "none.zip")
    (tmp_path / "no.zip").write_bytes(b"pose_s00460.txt")
    with pytest.raises(Damaged, match="not a whole zip"):
        files.read_submission(tmp_path / "no.zip")
    with zipfile.ZipFile(tmp_path / "latin.zip", "w") as archive:
        archive.writestr("pose_s00460.txt", b"\xe9")
    with pytest.raises(InvalidInput, match=r"pose_s00460\.txt: not UTF-8"):
        files.read_submission(tmp_path / "latin.zip")
    (dataset / "s00461").mkdir()
    with pytest.raises(MissingFile, match=r"no poses\.txt in s00461"):
        files.read_scenes(dataset)
    (dataset / "s00461").rmdir()
    with (dataset / "s00460" / "poses.txt").open("a") as file:
        file.write("seq1/frame_00011.jpg 0 0 0 0 1 1 1\n")
    with pytest.raises(InvalidInput, match="line 14: the quaternion is zero"):
        files.read_scenes(dataset)
