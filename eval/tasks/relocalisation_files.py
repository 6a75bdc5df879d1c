"""Files of the Map-free Relocalisation benchmark: scene folders, and the zip that is submitted.

    DATA/<scene>/intrinsics.txt     frame fx fy cx cy width height
    DATA/<scene>/poses.txt          frame qw qx qy qz tx ty tz            world to camera, metres
    SUBMISSION.zip: pose_<scene>.txt   frame qw qx qy qz tx ty tz confidence
    ESTIMATES.json: {scene: {frame: {"pose": 4 x 4 world-to-camera matrix, "confidence": number}}}

Lines of a submission that cannot be used are skipped and counted, as the benchmark does: their frames are failures.
In the true poses they are errors.
"""

import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import RigidTransform

from eval.tasks.prediction_files import read_json
from eval.tasks.relocalisation import Camera, Estimate, FrameError, frame_error, rigid, summarise
from store.errors import Damaged, InvalidInput, MissingFile, OutputExists

REFERENCE_FOLDER = "seq0"
EVERY_FRAMES = 5
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene's query frames, those that are scored, with their true poses and cameras."""

    name: str
    poses: dict[str, RigidTransform]
    cameras: dict[str, Camera]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Estimates by scene and frame, and what was skipped, one line each."""

    scenes: dict[str, dict[str, Estimate]]
    skipped: tuple[str, ...]


def read_scenes(folder: Path) -> list[Scene]:
    """Read every scene under `folder` that has true poses, in order of name.

    Raises:
        MissingFile: no scene there, or a scene without intrinsics.
        InvalidInput: a line that is not as documented above.
    """
    files = sorted(folder.glob("*/poses.txt"))
    if not files:
        raise MissingFile(f"no scene in '{folder}': expected SCENE/poses.txt and SCENE/intrinsics.txt below it")
    return [read_scene(file.parent) for file in files]


def read_scene(folder: Path) -> Scene:
    """Read one scene: of the query frames (all outside `seq0/`, in file order) every fifth, starting with the first."""
    poses: dict[str, RigidTransform] = {}
    for where, frame, values in _lines(folder / "poses.txt"):
        problem = _problem(values, count=7)
        if problem:
            raise InvalidInput(f"{where}: {problem}. Expected: frame qw qx qy qz tx ty tz")
        poses[frame] = rigid(values[:4], values[4:])
    cameras: dict[str, Camera] = {}
    for where, frame, values in _lines(folder / "intrinsics.txt"):
        if len(values) != 6 or not all(map(math.isfinite, values)):
            raise InvalidInput(f"{where}: expected: frame fx fy cx cy width height")
        fx, fy, cx, cy, width, height = values
        cameras[frame] = Camera(fx=fx, fy=fy, cx=cx, cy=cy, width=int(width), height=int(height))
    queries = [frame for frame in poses if Path(frame).parts[0] != REFERENCE_FOLDER]
    scored = {frame: poses[frame] for frame in queries[::EVERY_FRAMES]}
    without = sorted(set(scored) - set(cameras))
    if without:
        raise InvalidInput(f"'{folder / 'intrinsics.txt'}': no line for {without[0]} ({len(without)} frames lack one)")
    return Scene(name=folder.name, poses=scored, cameras={frame: cameras[frame] for frame in scored})


def read_submission(path: Path) -> Submission:
    """Read a submission zip. Of several lines for a frame the last one counts.

    A line is skipped if it has another number of fields, a field that is not a finite number, a quaternion of zeros,
    or a negative confidence.

    Raises:
        MissingFile: no such file.
        Damaged: not a zip, or one with damaged members.
        InvalidInput: no `pose_<scene>.txt` inside.
    """
    scenes: dict[str, dict[str, Estimate]] = {}
    skipped: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                file = Path(name).name
                if file.startswith("pose_") and file.endswith(".txt"):
                    text = archive.read(name).decode("utf-8", errors="replace")
                    scene = file.removeprefix("pose_").removesuffix(".txt")
                    scenes[scene] = _estimates(text, source=file, skipped=skipped)
    except OSError as error:
        raise MissingFile(f"submission '{path}': cannot be read ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise Damaged(f"submission '{path}': not a whole zip file ({error}). Write it again") from None
    if not scenes:
        raise InvalidInput(f"submission '{path}': no pose_<scene>.txt in it")
    return Submission(scenes=scenes, skipped=tuple(skipped))


def read_estimates(path: Path) -> dict[str, dict[str, Estimate]]:
    """Read estimates by scene and frame from JSON, as a method may write them, to make a submission of.

    Raises:
        MissingFile: no such file.
        InvalidInput: not that JSON, or a matrix that is no rigid transform; the frame is named.
    """
    content = read_json(path, subject=f"estimates '{path}'")
    found: dict[str, dict[str, Estimate]] = {}
    where = ""
    try:
        for scene, frames in content.items():
            found[scene] = {}
            for frame, entry in frames.items():
                where = f", scene '{scene}', frame '{frame}'"
                found[scene][frame] = _estimate(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f'estimates \'{path}\'{where}: expected {{scene: {{frame: {{"pose": rigid 4 x 4 matrix, "confidence": '
            f"number}}}}}} ({type(error).__name__}: {error})"
        ) from None
    return found


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
    """Score a submission against the true poses; a scored frame without an estimate is a failure.

    Raises:
        InvalidInput: the submission has a scene that `scenes` has not, so it belongs to another split.
    """
    known = {scene.name: scene for scene in scenes}
    foreign = sorted(set(submission.scenes) - set(known))
    if foreign:
        raise InvalidInput(f"submission has scene '{foreign[0]}', which has no true poses; there are: {sorted(known)}")
    errors: dict[str, list[FrameError]] = {}
    failures = 0
    for name, scene in known.items():
        estimates = submission.scenes.get(name, {})
        answered = [frame for frame in scene.poses if frame in estimates]
        failures += len(scene.poses) - len(answered)
        errors[name] = [frame_error(estimates[f], scene.poses[f], scene.cameras[f]) for f in answered]
    return {**summarise(errors, failures=failures), "skipped_lines": float(len(submission.skipped))}


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    matrix = np.asarray(entry["pose"], dtype=np.float64)
    rotation = matrix[:3, :3]
    if matrix.shape != (4, 4) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise ValueError("no rotation in the matrix")
    return Estimate(pose=RigidTransform.from_matrix(matrix), confidence=float(entry["confidence"]))


def _lines(path: Path) -> list[tuple[str, str, list[float]]]:
    """(place for messages, frame, numbers) of every line that is neither empty nor a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MissingFile(f"'{path}': cannot be read ({error.strerror})") from None
    return [
        (f"'{path}' line {number}", line.split()[0], [_number(field) for field in line.split()[1:]])
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def _estimates(text: str, *, source: str, skipped: list[str]) -> dict[str, Estimate]:
    estimates: dict[str, Estimate] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        values = [_number(field) for field in fields[1:]]
        problem = _problem(values, count=8)
        if problem:
            skipped.append(f"{source} line {number}: {problem}")
            continue
        estimates[fields[0]] = Estimate(pose=rigid(values[:4], values[4:7]), confidence=values[7])
    return estimates


def _problem(values: list[float], *, count: int) -> str:
    """What is wrong with the numbers of a pose line (quaternion, translation, perhaps confidence), or nothing."""
    if len(values) != count:
        return f"{len(values)} numbers after the frame, expected {count}"
    if not all(map(math.isfinite, values)):
        return "a field is not a finite number"
    if math.hypot(*values[:4]) == 0:
        return "the quaternion is zero"
    if any(value < 0 for value in values[7:]):
        return f"confidence {values[7]:g} is negative"
    return ""


def _number(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _format(frames: Mapping[str, Estimate], *, scene: str) -> str:
    lines = []
    for frame, estimate in sorted(frames.items()):
        quaternion = estimate.pose.rotation.as_quat(scalar_first=True, canonical=True)
        values = [*quaternion, *np.asarray(estimate.pose.translation), estimate.confidence]
        problem = _problem([float(value) for value in values], count=8)
        if problem or len(frame.split()) != 1:
            raise InvalidInput(f"estimate of '{frame}' in scene '{scene}': {problem or 'its name has spaces'}")
        lines.append(" ".join([frame, *(repr(float(value)) for value in values)]))
    return "\n".join(lines) + "\n"
