"""Scores of prediction files: human mesh recovery, multi-view depth, multi-view pose.

Human meshes: PREDICTIONS and TRUE are each an .npz, or folders of .npz files of the same names. One row is one person.
    image (P,) string · joints2d (P, J, 2) px · vertices (P, V, 3) m · root (P, 3) m, joint 0
    TRUE may also have images (I,) string: all images that are scored, also those without people
Depth: folders with the same files SET/SAMPLE.npz.
    TRUE: depth (H, W) m, 0 where unknown · PREDICTIONS: depth (h, w), or (S, h, w), one for each number of source views
Poses: JSON files {category: {sequence: [[4 x 4 world-to-camera matrix], ... one a frame]}}.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from eval.tasks import human_mesh, multiview
from eval.tasks.human_mesh import Detections
from store.errors import CodistillError, Damaged, InvalidInput, MissingFile, UnsafeFile

_MESH_DIMENSIONS = {"image": 1, "joints2d": 3, "vertices": 3, "root": 2}


def score_human_meshes(predictions: Path, true: Path) -> dict[str, float]:
    """Compute detection scores in percent, and PVE and PA-PVE in mm over all matched people of the files.

    Args:
        predictions: .npz file of predicted people, or folder of such files.
        true: .npz file of true people, or folder of such files.

    Raises:
        MissingFile: a file of `true` has no counterpart.
        InvalidInput: arrays missing or of other shapes, or predictions for an image that is not scored.
    """
    matched = false = missed = 0
    pve: list[float] = []
    pa_pve: list[float] = []
    for predicted_file, true_file in _counterparts(predictions, true):
        people, targets = (_mesh_arrays(file) for file in (predicted_file, true_file))
        scored = set(targets.get("images", targets["image"]).tolist()) | set(targets["image"].tolist())
        unknown = set(people["image"].tolist()) - scored
        if unknown:
            raise InvalidInput(f"'{predicted_file}': image '{min(unknown)}' is not among those of '{true_file}'")
        _check_same_mesh(people, targets, f"'{predicted_file}'")
        for image in sorted(scored):
            ours, theirs = np.flatnonzero(people["image"] == image), np.flatnonzero(targets["image"] == image)
            pairs = human_mesh.match(people["joints2d"][ours], targets["joints2d"][theirs])
            matched += len(pairs)
            false += len(ours) - len(pairs)
            missed += len(theirs) - len(pairs)
            for p, g in ((ours[first], theirs[second]) for first, second in pairs):
                mesh, goal = people["vertices"][p], targets["vertices"][g]
                pve.append(human_mesh.pve_mm(mesh, goal, roots=(people["root"][p], targets["root"][g])))
                pa_pve.append(human_mesh.pa_pve_mm(mesh, goal))
    detections = Detections(true_positives=matched, false_positives=false, misses=missed)
    means = {"pve_mm": _mean(pve), "pa_pve_mm": _mean(pa_pve)}
    return {
        **human_mesh.detection_scores(detections),
        **means,
        "people": float(matched + missed),
        "matched": float(matched),
    }


def score_depths(
    predictions: Path, true: Path, *, align: multiview.Alignment = "median"
) -> dict[str, dict[str, float]]:
    """Compute absolute relative error and inliers in percent per set, each sample at its best number of source views.

    Args:
        predictions: folder of SET/SAMPLE.npz.
        true: folder of SET/SAMPLE.npz with the true depth.
        align: `median` or `none`, as for `multiview.score`.

    Raises:
        MissingFile: no sample, or one without prediction.
        InvalidInput: a sample that cannot be scored; it is named.
    """
    samples = sorted(true.glob("*/*.npz"))
    if not samples:
        raise MissingFile(f"no true depth in '{true}': expected SET/SAMPLE.npz below it")
    sets: dict[str, list[multiview.DepthScore]] = {}
    for file in samples:
        goal = _arrays(file, {"depth": 2})["depth"]
        maps = _arrays(predictions / file.relative_to(true), {})["depth"]
        maps = maps[None] if maps.ndim == 2 else maps
        if maps.ndim != 3 or not len(maps):
            raise InvalidInput(f"prediction '{file.relative_to(true)}': expected (S, h, w), found {maps.shape}")
        try:
            scores = [multiview.score(depth, goal, align=align) for depth in maps]
        except CodistillError as error:
            raise InvalidInput(f"sample '{file.relative_to(true)}': {error}") from None
        sets.setdefault(file.parent.name, []).append(multiview.best(scores))
    return multiview.summarise_depth(sets)


def score_poses(predictions: Path, true: Path) -> dict[str, dict[str, float]]:
    """Compute RRA@15, RTA@15 and mAA(30) in percent per category; every true sequence must be predicted.

    Args:
        predictions: JSON file of predicted poses.
        true: JSON file of true poses.

    Raises:
        InvalidInput: a sequence that is missing, has other frames or no rotations; it is named.
    """
    ours, theirs = _poses(predictions), _poses(true)
    categories: dict[str, multiview.PairErrors] = {}
    for category, sequences in sorted(theirs.items()):
        errors = []
        for sequence, poses in sorted(sequences.items()):
            where = f"sequence '{category}/{sequence}'"
            predicted = ours.get(category, {}).get(sequence)
            if predicted is None:
                raise InvalidInput(f"{where}: not in '{predictions}'")
            try:
                errors.append(multiview.pair_errors(predicted, poses))
            except CodistillError as error:
                raise InvalidInput(f"{where}: {error}") from None
        if errors:
            categories[category] = multiview.pool(errors)
    if not categories:
        raise InvalidInput(f"'{true}': no sequence in it")
    return multiview.summarise_pose(categories)


def read_json(path: Path, *, subject: str) -> Any:
    """Read a JSON file.

    Args:
        path: path of the file.
        subject: name of the file in error messages.

    Raises:
        MissingFile: the file cannot be read.
        InvalidInput: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFile(f"{subject}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InvalidInput(f"{subject}: not JSON ({error})") from None


def _counterparts(predictions: Path, true: Path) -> list[tuple[Path, Path]]:
    if not true.is_dir():
        return [(predictions, true)]
    files = sorted(true.glob("*.npz"))
    if not files:
        raise MissingFile(f"no .npz file in '{true}'")
    return [(predictions / file.name, file) for file in files]


def _mesh_arrays(path: Path) -> dict[str, np.ndarray]:
    arrays = _arrays(path, _MESH_DIMENSIONS)
    lengths = {name: len(arrays[name]) for name in _MESH_DIMENSIONS}
    if len(set(lengths.values())) != 1:
        raise InvalidInput(f"'{path}': arrays of different lengths {lengths}. Expected one row a person in each")
    unusable = [name for name in ("joints2d", "vertices", "root") if not np.isfinite(arrays[name]).all()]
    if unusable:
        raise InvalidInput(f"'{path}': not finite: {', '.join(unusable)}")
    return arrays


def _check_same_mesh(people: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], where: str) -> None:
    for name in ("joints2d", "vertices"):
        ours, theirs = people[name].shape[1:], targets[name].shape[1:]
        if ours != theirs and len(people[name]) and len(targets[name]):
            raise InvalidInput(f"{where}: {name} of shape {ours} a person, the true ones have {theirs}")


def _arrays(path: Path, dimensions: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz; those in `dimensions` must be there with that many axes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InvalidInput(f"'{path}': expected an .npz file")
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise MissingFile(f"'{path}': cannot be read ({error})") from None
    except BadZipFile as error:
        raise Damaged(f"'{path}': not a whole .npz file ({error}). Write it again") from None
    except InvalidInput:
        raise
    except ValueError as error:
        raise UnsafeFile(f"'{path}': {error}. Expected an .npz of plain arrays (no objects)") from None
    wrong = [
        f"{name} ({axes} axes)" for name, axes in dimensions.items() if arrays.get(name, np.empty(())).ndim != axes
    ]
    if wrong:
        raise InvalidInput(f"'{path}': expected {', '.join(wrong)}; found { {n: a.shape for n, a in arrays.items()} }")
    return arrays


def _poses(path: Path) -> dict[str, dict[str, np.ndarray]]:
    content = read_json(path, subject=f"'{path}'")
    try:
        return {
            c: {s: np.asarray(p, dtype=np.float64) for s, p in sequences.items()} for c, sequences in content.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise InvalidInput(f"'{path}': expected {{category: {{sequence: [4 x 4 matrix a frame]}}}}") from None


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
