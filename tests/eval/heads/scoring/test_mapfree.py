"""Map-free from images to scores, on miniatures in its layout: exact, spoilt, interrupted and broken."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.heads.scoring import mapfree
from eval.heads.scoring.settings import PoseSettings
from store.errors import Conflict, InvalidInput, MissingFile, OutputExists
from tests.eval.heads.mast3r.goldens import tiny_pair
from tests.eval.heads.pairs import trees
from tests.eval.heads.scoring import exact

FRAMES = 7  # the reference and six queries, of which the first and the sixth are scored


def write_scene(
    root: Path, pairs: exact.ExactPairs, scene: str, *, index: int = 0, split: str = "val", zeros: bool = False
) -> Path:
    """Write a scene: seq0/frame_00000.jpg, and seq1/frame_00000.jpg to frame_00005.jpg."""
    views = exact.room(FRAMES, index=index)
    folder = root / split / scene
    names = ["seq0/frame_00000.jpg", *(f"seq1/frame_{number:05d}.jpg" for number in range(FRAMES - 1))]
    poses, cameras = [], []
    for name, view, inward in zip(names, views, exact.in_first(views), strict=True):
        trees.write_image(folder / name, view.image)
        pairs.learn(folder / name, view)
        pose = np.zeros(7) if zeros else [*trees.quaternion(inward[:3, :3], first="w"), *inward[:3, 3]]
        poses.append(f"{name} {trees.row(np.asarray(pose))}")
        fx, fy, cx, cy = (float(view.intrinsics[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
        cameras.append(f"{name} {trees.row(np.array([fx, fy, cx, cy, *exact.SIZE]))}")
    trees.write_text(folder / "poses.txt", "# frame qw qx qy qz tx ty tz\n" + "\n".join(poses) + "\n")
    trees.write_text(folder / "intrinsics.txt", "\n".join(cameras) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, exact.ExactPairs]:
    torch.set_num_threads(1)
    root, pairs = tmp_path_factory.mktemp("mapfree"), exact.ExactPairs()
    for index, scene in enumerate(("s00460", "s00461")):
        write_scene(root, pairs, scene, index=index)
    write_scene(root, pairs, "s00525", index=2, split="test", zeros=True)
    return root, pairs


def with_spoilt(pairs: exact.ExactPairs, **changes: Any) -> exact.ExactPairs:
    return exact.ExactPairs(known=pairs.known, spoil=lambda outputs: exact.moved(outputs, **changes))


@pytest.mark.parametrize("settings", [PoseSettings(), PoseSettings(method="essential", library="poselib")])
def test_exact_predictions_score_perfectly(
    data: tuple[Path, exact.ExactPairs], tmp_path: Path, settings: PoseSettings
) -> None:
    root, pairs = data
    found = mapfree.score(exact.predictor(pairs), root, tmp_path, settings=settings)
    assert (found.scores["frames"], found.scores["estimated"]) == (4, 4)
    for name in ("vcre_45px", "vcre_90px", "pose"):
        assert found.scores[f"precision_{name}"] == found.scores[f"auc_{name}"] == 1
    assert found.scores["median_translation_m"] < 0.05
    assert found.scores["median_rotation_deg"] < 1
    assert found.notes == []


def test_twice_as_far_scores_badly(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    root, pairs = data
    exactly = mapfree.score(exact.predictor(pairs), root, tmp_path / "exact").scores
    spoilt = with_spoilt(pairs, pts3d=lambda points: 2 * points)
    found = mapfree.score(exact.predictor(spoilt), root, tmp_path / "spoilt").scores
    assert found["estimated"] == 4
    assert found["median_translation_m"] > 10 * exactly["median_translation_m"]
    assert found["precision_pose"] < 1


def test_the_submission_has_the_format_and_only_frames_with_an_estimate(
    data: tuple[Path, exact.ExactPairs], tmp_path: Path
) -> None:
    root, pairs = data
    found = mapfree.score(exact.predictor(pairs), root, tmp_path / "test", split="test", every=1)
    assert found.scores == {}
    with zipfile.ZipFile(found.submission) as archive:
        assert archive.namelist() == ["pose_s00525.txt"]
        lines = [line.split(" ") for line in archive.read("pose_s00525.txt").decode().splitlines()]
    assert [line[0] for line in lines] == [f"seq1/frame_{number:05d}.jpg" for number in range(6)]
    assert all(len(line) == 9 for line in lines)
    true = exact.in_first(exact.room(FRAMES, index=2))[-1]
    np.testing.assert_allclose(np.array(lines[-1][5:8], dtype=float), true[:3, 3], atol=0.05)

    none = with_spoilt(pairs, desc=lambda desc: torch.full_like(desc, float("nan")))
    found = mapfree.score(exact.predictor(none), root, tmp_path / "none")
    assert found.scores["estimated"] == 0
    assert "4 frames without an estimate" in found.notes[-1]
    assert "not finite" in found.notes[-1]
    with zipfile.ZipFile(found.submission) as archive:
        assert archive.read("pose_s00460.txt").strip() == b""


def test_a_finished_scene_is_not_computed_again(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    root, pairs = data
    pairs.seen = 0
    first = mapfree.score(exact.predictor(pairs), root, tmp_path)
    assert pairs.seen == 6
    (tmp_path / "results" / "s00461.json").write_text('{"inputs": ')  # cut short: counts as none
    again = mapfree.score(exact.predictor(pairs), root, tmp_path)
    assert (pairs.seen, again.outcome.found) == (9, 1)
    assert again.scores == first.scores
    for other in (exact.predictor(pairs, name="another"), exact.predictor(pairs)):
        changed = PoseSettings(subsample=4) if other.identity["name"] == "exact" else None
        with pytest.raises(Conflict, match=r"pose\.subsample: stored 8, asked 4|model\.name: stored 'exact'"):
            mapfree.score(other, root, tmp_path, settings=changed)


def test_a_scene_that_fails_is_told_and_the_others_are_scored(tmp_path: Path) -> None:
    pairs = exact.ExactPairs()
    folder = [write_scene(tmp_path / "data", pairs, scene) for scene in ("a", "b")][1]
    image = folder / "seq1/frame_00005.jpg"
    content = image.read_bytes()
    image.unlink()
    found = mapfree.score(exact.predictor(pairs), tmp_path / "data", tmp_path / "out")
    assert list(found.outcome.failures) == ["b"]
    assert "frame_00005.jpg': cannot be read" in found.outcome.failures["b"]
    assert any("1 of 2 scenes failed" in note for note in found.notes)
    assert found.scores["frames"] == 2 + 6  # all six frames of a scene that is not in the submission count
    image.write_bytes(content)
    assert mapfree.score(exact.predictor(pairs), tmp_path / "data", tmp_path / "out").scores["estimated"] == 4
    poses = folder / "poses.txt"
    poses.write_text(poses.read_text() + "# changed\n")
    with pytest.raises(Conflict, match="other files of 'b'"):
        mapfree.score(exact.predictor(pairs), tmp_path / "data", tmp_path / "out")
    cameras = folder / "intrinsics.txt"
    cameras.write_text("\n".join(cameras.read_text().splitlines()[:-1]))
    with pytest.raises(InvalidInput, match=r"no line for seq1/frame_00005\.jpg"):
        mapfree.score(exact.predictor(pairs), tmp_path / "data", tmp_path / "other")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("poses.txt", "seq0/frame_00000.jpg 1", "seq0/frame_00000.jpg 0.5", "is not the identity"),
        ("poses.txt", "seq0", "seq1", "0 frames in seq0"),
        ("poses.txt", "seq1/frame_00005.jpg ", "seq1/frame_00005.jpg nan ", "expected 7 numbers, found 8"),
        ("intrinsics.txt", " 112 84", " 84 112", "another aspect"),
        ("intrinsics.txt", "seq0/frame_00000.jpg", "seq0/frame_00001.jpg", "no line for seq0/frame_00000.jpg"),
    ],
)
def test_broken_scenes(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    pairs = exact.ExactPairs()
    path = write_scene(tmp_path, pairs, "a", split="test") / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InvalidInput, match=message):
        mapfree.score(exact.predictor(pairs), tmp_path, tmp_path / "out", split="test")


def test_other_folders_are_refused(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    root, pairs = data
    with pytest.raises(MissingFile, match="no scene in"):
        mapfree.score(exact.predictor(pairs), root / "val", tmp_path / "out")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("")
    with pytest.raises(OutputExists, match="holds no results"):
        mapfree.score(exact.predictor(pairs), root, tmp_path / "used")
    with pytest.raises(InvalidInput, match="every 3: the benchmark scores every 5th"):
        mapfree.score(exact.predictor(pairs), root, tmp_path / "out", every=3)


def test_a_pair_model_runs_through(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    found = mapfree.score(exact.predictor(tiny_pair()), data[0], tmp_path)
    assert found.scores["frames"] == 4
    assert found.submission.is_file()
