"""Files of the Map-free Relocalisation benchmark: scene folders, submissions, estimates; and their scores.

    DATA/<scene>/intrinsics.txt     frame fx fy cx cy width height
    DATA/<scene>/poses.txt          frame qw qx qy qz tx ty tz            world to camera, metres
    SUBMISSION.zip: pose_<scene>.txt   frame qw qx qy qz tx ty tz confidence
    ESTIMATES.json: {scene: {frame: {"pose": 4 x 4 world-to-camera matrix, "confidence": number}}}

Lines of a submission that cannot be used are skipped and counted, as the benchmark does: their frames are failures.
In the true poses they are errors. A scene that the submission lacks counts with all its frames, not with those that
are scored alone, as in the benchmark. Source: the benchmark's evaluation script (nianticlabs/map-free-reloc).
"""

import math
import zipfile
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import RigidTransform

from eval.tasks.pose_lines import Line, frame_number, pose_problem, split_lines
from eval.tasks.prediction_files import read_json
from eval.tasks.relocalisation import Camera, Estimate, FrameError, frame_error, rigid, summarise
from store.common.text import some
from store.errors import Damaged, InvalidInput, MissingFile, OutputExists

EVERY_FRAMES = 5
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The scored frames of a scene.

    Attributes:
        name: name of the scene.
        poses: name of a scored frame -> true pose.
        cameras: name of a scored frame -> camera.
        frames: number of all frames with a true pose, scored or not.
    """

    name: str
    poses: dict[str, RigidTransform]
    cameras: dict[str, Camera]
    frames: int


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Estimates by scene and frame, and what the benchmark does not read.

    Attributes:
        scenes: scene -> name of a frame -> estimate.
        skipped: one message for each skipped line.
        in_folders: pose files that do not lie at the root of the zip.
    """

    scenes: dict[str, dict[str, Estimate]]
    skipped: tuple[str, ...]
    in_folders: tuple[str, ...] = ()


def read_scenes(folder: Path) -> list[Scene]:
    """Read every scene under `folder`, in order of name.

    Raises:
        MissingFile: no scene there, or a scene without true poses or intrinsics.
        InvalidInput: a line that is not as documented above.
    """
    scenes = sorted(entry for entry in folder.glob("*") if entry.is_dir() and not entry.name.startswith("."))
    without = [scene.name for scene in scenes if not (scene / "poses.txt").is_file()]
    if len(without) == len(scenes):
        raise MissingFile(f"no scene in '{folder}': expected SCENE/poses.txt and SCENE/intrinsics.txt below it")
    if without:
        raise MissingFile(
            f"'{folder}': no poses.txt in {some(without)}. The benchmark scores every folder there as a scene: "
            "complete them or move them away"
        )
    return [read_scene(scene) for scene in scenes]


def read_scene(folder: Path) -> Scene:
    """Read one scene: every fifth of its frames is scored, in file order, starting with the first.

    Frames are told apart by their number alone, as in the benchmark: the reference frame `seq0/frame_00000.jpg` and the
    query `seq1/frame_00000.jpg` are one frame, at the position of the first line and with the pose of the last.
    """
    poses: dict[int | None, tuple[str, RigidTransform]] = {}
    for line in _file_lines(folder / "poses.txt"):
        problem = pose_problem(line.frame, line.values, count=7)
        if problem:
            expected = "Expected: frame qw qx qy qz tx ty tz (the true poses of the test set are not public)"
            raise InvalidInput(f"{line.where}: {problem}. {expected}")
        poses[frame_number(line.frame)] = (line.frame, rigid(line.values[:4], line.values[4:]))
    cameras = _cameras(folder / "intrinsics.txt")
    scored = dict(list(poses.values())[::EVERY_FRAMES])
    without = [frame for frame in scored if frame_number(frame) not in cameras]
    if without:
        raise InvalidInput(f"'{folder / 'intrinsics.txt'}': no line for {some(without)}")
    return Scene(
        name=folder.name,
        poses=scored,
        cameras={frame: cameras[frame_number(frame)] for frame in scored},
        frames=len(poses),
    )


def read_submission(path: Path) -> Submission:
    """Read a submission zip: the `pose_<scene>.txt` at its root. Of several lines for a frame the last one counts.

    A line is skipped if it has another number of fields, no frame number, a field that is not a finite number, or a
    quaternion of zeros.

    Raises:
        MissingFile: no such file.
        Damaged: not a zip, or one with damaged members.
        InvalidInput: no `pose_<scene>.txt` at its root, or one that is not UTF-8.
    """
    scenes: dict[str, dict[str, Estimate]] = {}
    skipped: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted({name for name in archive.namelist() if _is_pose_file(Path(name).name)})
            for name in filter(_is_pose_file, names):
                scene = name.removeprefix("pose_").removesuffix(".txt")
                scenes[scene] = _estimates(split_lines(archive.read(name), source=name), skipped=skipped)
    except OSError as error:
        raise MissingFile(f"submission '{path}': cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Damaged(f"submission '{path}': not a whole zip file ({error}). Write it again") from None
    in_folders = tuple(name for name in names if not _is_pose_file(name))
    if not scenes:
        hint = f" ('{in_folders[0]}' lies in a folder: zip the files without it)" if in_folders else ""
        raise InvalidInput(f"submission '{path}': no pose_<scene>.txt at the root of the zip{hint}")
    return Submission(scenes=scenes, skipped=tuple(skipped), in_folders=in_folders)


def read_estimates(path: Path) -> dict[str, dict[str, Estimate]]:
    """Read estimates by scene and frame from JSON.

    Raises:
        MissingFile: no such file.
        InvalidInput: not that JSON, a matrix that is no rigid transform, or what a submission cannot hold (a frame
            without a number or with another frame's, a negative confidence); the frame is named.
    """
    content = read_json(path, subject=f"estimates '{path}'")
    estimates: dict[str, dict[str, Estimate]] = {}
    where = ""
    try:
        for scene, frames in content.items():
            estimates[scene] = {}
            numbers: set[int | None] = set()
            for frame, entry in frames.items():
                where = f", scene '{scene}', frame '{frame}'"
                estimates[scene][frame] = _estimate(entry)
                problem = _refusal(frame, estimates[scene][frame], taken=numbers)
                if problem:
                    raise ValueError(problem)
                numbers.add(frame_number(frame))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f'estimates \'{path}\'{where}: expected {{scene: {{frame: {{"pose": rigid 4 x 4 matrix, "confidence": '
            f"number}}}}}} ({type(error).__name__}: {error})"
        ) from None
    return estimates


def write_submission(path: Path, scenes: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Write estimates by scene and frame as a submission zip; the same estimates give the same bytes.

    Raises:
        OutputExists: there is a file already.
        InvalidInput: an estimate that the benchmark would skip.
    """
    texts = {f"pose_{scene}.txt": _format(frames, scene=scene) for scene, frames in sorted(scenes.items())}
    try:
        with zipfile.ZipFile(path, "x", compression=zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(zipfile.ZipInfo(name, date_time=_ZIP_EPOCH), text, zipfile.ZIP_DEFLATED)
    except FileExistsError:
        raise OutputExists(f"submission '{path}' exists. Delete it or choose another name") from None


def score(scenes: Iterable[Scene], submission: Submission) -> dict[str, float]:
    """Score a submission against the true poses, as the benchmark counts.

    A scored frame without an estimate is a failure; of a scene that the submission lacks, every frame is one, scored or
    not. Scenes without true poses are left out.

    Raises:
        InvalidInput: none of the scenes is in the submission, which so belongs to another split, or the confidence of a
            scored frame is negative, at which the benchmark stops.
    """
    known = {scene.name: scene for scene in scenes}
    if submission.scenes and not known.keys() & submission.scenes.keys():
        raise InvalidInput(
            f"submission: none of its scenes has true poses. Expected some of {_quoted(known)}, found scene "
            f"{_quoted(submission.scenes)}. Is it of another split?"
        )
    errors: dict[str, list[FrameError]] = {}
    failures = 0
    for name, scene in known.items():
        if name not in submission.scenes:
            failures += scene.frames
            continue
        estimates = {frame_number(frame): estimate for frame, estimate in submission.scenes[name].items()}
        answered = {frame: estimates[n] for frame in scene.poses if (n := frame_number(frame)) in estimates}
        for frame, estimate in answered.items():
            if not estimate.confidence >= 0:
                raise InvalidInput(
                    f"scene '{name}', frame '{frame}': confidence {estimate.confidence:g} is negative. The benchmark "
                    "gives such a submission no score: use confidences of at least 0"
                )
        failures += len(scene.poses) - len(answered)
        errors[name] = [frame_error(entry, scene.poses[f], scene.cameras[f]) for f, entry in answered.items()]
    return {**summarise(errors, failures=failures), "skipped_lines": float(len(submission.skipped))}


def notes(scenes: Iterable[Scene], submission: Submission) -> list[str]:
    """Say what of the data and of the submission has no part in the scores, or more part than one would think."""
    known = {scene.name: scene for scene in scenes}
    absent = [scene for name, scene in known.items() if name not in submission.scenes]
    unknown = submission.scenes.keys() - known.keys()
    lines = []
    if absent:
        frames = sum(scene.frames for scene in absent)
        lines.append(
            f"not in the submission: {_quoted(scene.name for scene in absent)}. All {frames} frames count as failures, "
            "not every fifth, as in the benchmark"
        )
    if unknown:
        lines.append(f"without true poses, so not scored: {_quoted(unknown)}")
    if submission.in_folders:
        lines.append(f"not at the root of the zip, so not read: {_quoted(submission.in_folders)}")
    return lines


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    matrix = np.asarray(entry["pose"], dtype=np.float64)
    if matrix.shape != (4, 4) or not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3):
        raise ValueError("no rotation in the matrix")
    return Estimate(pose=RigidTransform.from_matrix(matrix), confidence=float(entry["confidence"]))


def _file_lines(path: Path) -> list[Line]:
    try:
        return split_lines(path.read_bytes(), source=f"'{path}'")
    except OSError as error:
        raise MissingFile(f"'{path}': cannot be read ({error.strerror})") from None


def _cameras(path: Path) -> dict[int | None, Camera]:
    """Read frame number -> camera. All have the image size of the last line, as in the benchmark."""
    cameras: dict[int | None, Sequence[float]] = {}
    size = 0, 0
    for line in _file_lines(path):
        if len(line.values) != 6 or frame_number(line.frame) is None or not all(map(math.isfinite, line.values)):
            raise InvalidInput(f"{line.where}: expected: frame fx fy cx cy width height")
        cameras[frame_number(line.frame)] = line.values
        size = int(line.values[4]), int(line.values[5])
    return {
        number: Camera(fx=fx, fy=fy, cx=cx, cy=cy, width=size[0], height=size[1])
        for number, (fx, fy, cx, cy, *_) in cameras.items()
    }


def _quoted(names: Iterable[str]) -> str:
    return some(f"'{name}'" for name in sorted(names))


def _is_pose_file(name: str) -> bool:
    return name.startswith("pose_") and name.endswith(".txt") and "/" not in name


def _estimates(lines: Iterable[Line], *, skipped: list[str]) -> dict[str, Estimate]:
    """Read the usable lines; of those with one frame number the last one alone."""
    estimates: dict[int | None, tuple[str, Estimate]] = {}
    for line in lines:
        problem = pose_problem(line.frame, line.values, count=8)
        if problem:
            skipped.append(f"{line.where}: {problem}")
            continue
        pose = rigid(line.values[:4], line.values[4:7])
        estimates[frame_number(line.frame)] = (line.frame, Estimate(pose=pose, confidence=line.values[7]))
    return dict(estimates.values())


def _values(estimate: Estimate) -> list[float]:
    """Numbers of a submission's line: quaternion, translation, confidence."""
    quaternion = estimate.pose.rotation.as_quat(scalar_first=True, canonical=True)
    return [float(value) for value in (*quaternion, *np.asarray(estimate.pose.translation), estimate.confidence)]


def _refusal(frame: str, estimate: Estimate, *, taken: Container[int | None]) -> str:
    """Say why an estimate cannot be submitted beside those of the frame numbers `taken`; empty if it can."""
    if estimate.confidence < 0:
        return f"confidence {estimate.confidence:g} is negative"
    if len(frame.split()) != 1 or "#" in frame:
        return "its name has spaces or a #"
    if frame_number(frame) in taken:
        return f"another frame has the number {frame_number(frame)}, and the benchmark tells frames apart by it"
    return pose_problem(frame, _values(estimate), count=8)


def _format(frames: Mapping[str, Estimate], *, scene: str) -> str:
    if "/" in scene:
        raise InvalidInput(f"scene '{scene}': its name has a slash, and the benchmark reads no folders")
    lines: dict[int | None, str] = {}
    for frame, estimate in sorted(frames.items()):
        problem = _refusal(frame, estimate, taken=lines)
        if problem:
            raise InvalidInput(f"estimate of '{frame}' in scene '{scene}': {problem}")
        lines[frame_number(frame)] = " ".join([frame, *map(repr, _values(estimate))])
    return "\n".join(lines.values()) + "\n"
