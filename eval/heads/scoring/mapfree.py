"""Map-free relocalisation from images to a submission, and to the scores of the validation set.

Documented: DATA/{val,test}/SCENE/{intrinsics.txt, poses.txt, seq0/frame_00000.jpg, seq1/frame_*.jpg}; seq0 holds one
reference frame, whose pose is the identity, so that the pose of a query is that of the reference in its frame. All true
poses of test are zeros. The benchmark scores every fifth frame; frames are told apart by their number. Not published:
how DUNE and MASt3R turn a pair into a pose; see `PoseSettings`. The confidence of a pose is the number of its inliers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import RigidTransform

from eval.heads.pairs.files import Tree, numbers
from eval.heads.scoring.images import camera_of_image
from eval.heads.scoring.predictor import Predictor
from eval.heads.scoring.relative_poses import EncodedView, encoded, relative_pose
from eval.heads.scoring.settings import PoseSettings
from eval.heads.scoring.units import SCORES, Outcome, ResultFolder, Unit, run_units
from eval.tasks import relocalisation_files as files
from eval.tasks.pose_lines import frame_number
from eval.tasks.relocalisation import Estimate
from store.common import atomic
from store.errors import InvalidInput, MissingFile

Split = Literal["val", "test"]
SUBMISSION = "submission.zip"
REFERENCE, QUERIES = "seq0/", "seq1/"
IDENTITY = (1.0, 0, 0, 0, 0, 0, 0)
POSE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class SceneFrames:
    """What is predicted of a scene.

    Attributes:
        reference: name of the reference frame.
        queries: names of the frames to be localised.
        cameras: name of a frame -> intrinsics (3, 3) and the (width, height) that they are for.
    """

    reference: str
    queries: tuple[str, ...]
    cameras: Mapping[str, tuple[np.ndarray, tuple[int, int]]]


@dataclass(frozen=True, kw_only=True)
class MapFreeScores:
    """What came out.

    Attributes:
        scores: figures of the benchmark; empty for the test set.
        submission: the zip to hand in.
        outcome: results by scene.
        notes: lines on what has no part in the scores, and on failures.
    """

    scores: dict[str, float]
    submission: Path
    outcome: Outcome
    notes: list[str]


def score(
    predictor: Predictor,
    data: Path,
    out: Path,
    *,
    split: Split = "val",
    every: int = files.EVERY_FRAMES,
    settings: PoseSettings | None = None,
    progress: bool = False,
) -> MapFreeScores:
    """Localise the queries of all scenes, write the submission, and score it where true poses are there.

    Args:
        predictor: the pair model.
        data: folder with `val` and `test`.
        out: folder for the results, `submission.zip` and `scores.json`; an earlier run in it is continued.
        split: which part.
        every: predict every so many frames, from the first; 5 are those that the benchmark scores, 1 all.
        settings: how poses are made.
        progress: show a bar.

    Raises:
        MissingFile: no scene, or one of `val` without true poses.
        InvalidInput: true poses that cannot be read, scores of `val` with another `every`, or every scene failed.
        Conflict, OutputExists: see `ResultFolder`.
        MissingExtra: the solver is not installed.
    """
    if split == "val" and every not in (1, files.EVERY_FRAMES):
        raise InvalidInput(f"every {every}: the benchmark scores every {files.EVERY_FRAMES}th frame. Take it, or 1")
    chosen = PoseSettings() if settings is None else settings
    tree = Tree(data, subject="Map-free")
    names = [name for name in tree.folders(split) if tree.has(f"{split}/{name}/poses.txt")]
    if not names:
        raise MissingFile(f"Map-free: no scene in '{data / split}'. Expected {split}/SCENE/poses.txt and its images")
    scenes = files.read_scenes(data / split) if split == "val" else []  # first: what cannot be scored is not computed
    folder = ResultFolder(
        out,
        {"benchmark": "map-free", "split": split, "every": every, **predictor.describe(), "pose": asdict(chosen)},
    )
    units = [_unit(predictor, tree, f"{split}/{name}", every, chosen) for name in names]
    outcome = run_units(units, folder, noun="scene", progress=progress)
    estimates = {name: _estimates(result) for name, result in outcome.results.items()}
    submission = out / SUBMISSION
    with atomic.replacing(submission) as partial:
        files.write_submission(partial, estimates)
    notes = _without_estimate(outcome) + outcome.report(out, noun="scene")
    scores: dict[str, float] = {}
    if split == "val":
        handed_in = files.read_submission(submission)
        scores = files.score(scenes, handed_in)
        notes = files.notes(scenes, handed_in) + notes
        folder.write_json(SCORES, scores)
    return MapFreeScores(scores=scores, submission=submission, outcome=outcome, notes=notes)


def scene_frames(tree: Tree, scene: str, *, every: int) -> SceneFrames:
    """Read which frames of a scene are to be predicted, and their cameras.

    Frames count by their number alone, in the order of poses.txt, as the benchmark counts them.

    Args:
        tree: the dataset.
        scene: the scene's folder, such as val/s00460.
        every: take every so many frames.

    Raises:
        MissingFile: no poses.txt or intrinsics.txt.
        InvalidInput: not exactly one reference frame with the identity as its pose, or a frame without intrinsics.
    """
    frames: dict[int | None, str] = {}
    references = []
    for name, *values in tree.lines(f"{scene}/poses.txt"):
        pose = numbers(values, count=7, where=f"{tree.where(scene)} {name}")
        if name.startswith(REFERENCE):
            references.append(name)
            if pose.any() and not np.allclose(pose, IDENTITY, atol=POSE_TOLERANCE):
                raise InvalidInput(f"{tree.where(scene)}: the pose of {name} is not the identity, as a reference's is")
        if frame_number(name) is None:
            raise InvalidInput(f"{tree.where(scene)}: no frame number in '{name}', expected seq1/frame_00005.jpg")
        frames[frame_number(name)] = name
    if len(references) != 1:
        raise InvalidInput(f"{tree.where(scene)}: {len(references)} frames in seq0, expected one reference")
    queries = tuple(list(frames.values())[::every])
    cameras = {}
    for name, *values in tree.lines(f"{scene}/intrinsics.txt"):
        fx, fy, cx, cy, width, height = numbers(values, count=6, where=f"{tree.where(scene)}/intrinsics.txt {name}")
        cameras[name] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (int(width), int(height))
    without = [name for name in (references[0], *queries) if name not in cameras]
    if without:
        raise InvalidInput(f"{tree.where(scene)}/intrinsics.txt: no line for {without[0]} and {len(without) - 1} more")
    return SceneFrames(reference=references[0], queries=queries, cameras=cameras)


def _unit(predictor: Predictor, tree: Tree, scene: str, every: int, settings: PoseSettings) -> Unit:
    texts = {
        name: tree.text(f"{scene}/{name}") if tree.has(f"{scene}/{name}") else None
        for name in ("poses.txt", "intrinsics.txt")
    }
    return Unit(
        name=scene.rpartition("/")[2],
        inputs=texts,
        compute=lambda: _localise(predictor, tree, scene, every, settings),
    )


def _localise(predictor: Predictor, tree: Tree, scene: str, every: int, settings: PoseSettings) -> dict[str, Any]:
    """Return {"frames": {frame: pose and confidence, or the reason of a failure}} of a scene."""
    frames = scene_frames(tree, scene, every=every)
    reference = _view(predictor, tree, scene, frames.reference, frames)
    results: dict[str, Any] = {}
    for name in frames.queries:
        query = _view(predictor, tree, scene, name, frames)
        estimate = relative_pose(predictor, reference, query, settings, metric=True)
        if estimate.failure:
            results[name] = {"failure": estimate.failure}
        else:
            results[name] = {"pose": estimate.matrix.tolist(), "confidence": estimate.confidence}
    return {"frames": results}


def _view(predictor: Predictor, tree: Tree, scene: str, name: str, frames: SceneFrames) -> EncodedView:
    pixels = tree.image(f"{scene}/{name}")
    matrix, size = frames.cameras[name]
    where = tree.where(f"{scene}/{name}")
    return encoded(predictor, pixels, camera_of_image(matrix, size, pixels, where=where))


def _estimates(result: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the frames of a scene that have an estimate."""
    return {
        name: Estimate(pose=RigidTransform.from_matrix(np.array(entry["pose"])), confidence=entry["confidence"])
        for name, entry in result["frames"].items()
        if "pose" in entry
    }


def _without_estimate(outcome: Outcome) -> list[str]:
    reasons = [
        f"{scene} {frame}: {entry['failure']}"
        for scene, result in outcome.results.items()
        for frame, entry in result["frames"].items()
        if "failure" in entry
    ]
    return [f"{len(reasons)} frames without an estimate, left out of the submission; {reasons[0]}"] if reasons else []
