"""Command-line scoring of prediction files."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from store.errors import InvalidInput, OutputExists

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
PositionalFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
PositionalFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]


def relocalisation(
    estimates: PositionalFile, *, data: Folder | None = None, write: File | None = None, out: File | None = None
) -> None:
    """Score Map-free Relocalisation (VCRE, precision, AUC, pose errors), or write a submission of a method's estimates.

    example: codistill eval relocalisation submission.zip --data mapfree/val

    Args:
        estimates: submission (zip of pose_<scene>.txt), or JSON of estimates; docs/evaluation-probes.md has its layout.
        data: folder of scenes with poses.txt and intrinsics.txt, to score with.
        write: also write the estimates here, as a submission; the test set's poses are not public, so without --data.
        out: also write the figures here, as JSON.
    """
    from eval.tasks import relocalisation_files as files

    if data is None and write is None:
        raise InvalidInput("nothing to do: pass --data to score, --write to make a submission, or both")
    if data is None and out is not None:
        raise InvalidInput("--out takes figures, and there are none without --data")
    if estimates.suffix == ".json":
        submission = files.Submission(scenes=files.read_estimates(estimates), skipped=())
    else:
        submission = files.read_submission(estimates)
    for line in submission.skipped[:5]:
        sys.stderr.write(f"skipped: {line}\n")
    if len(submission.skipped) > 5:
        sys.stderr.write(f"skipped: {len(submission.skipped) - 5} more lines\n")
    if write is not None:
        files.write_submission(write, submission.scenes)
        sys.stdout.write(f"submission: {write}\n")
    if data is not None:
        _show({"all scenes": files.score(files.read_scenes(data), submission)}, out)


def human_mesh(predictions: PositionalFile, *, true: File, out: File | None = None) -> None:
    """Score human meshes: precision, recall, F1, PVE and PA-PVE. Layout of the files: docs/evaluation-probes.md.

    example: codistill eval human-mesh predictions.npz --true bedlam-val.npz

    Args:
        predictions: .npz of predicted people, or a folder of them.
        true: .npz of true people, or a folder of the same names.
        out: also write the figures here, as JSON.
    """
    from eval.tasks import prediction_files as files

    _show({"all images": files.score_human_meshes(predictions, true)}, out)


def multiview_depth(
    predictions: PositionalFolder, *, true: Folder, metric: bool = False, out: File | None = None
) -> None:
    """Score multi-view depth: absolute relative error and inliers per set, at the best number of source views.

    example: codistill eval multiview-depth predictions --true robustmvd

    Args:
        predictions: folder of SET/SAMPLE.npz.
        true: folder of SET/SAMPLE.npz with the true depth.
        metric: take the predictions as metric, without alignment by the median.
        out: also write the figures here, as JSON.
    """
    from eval.tasks import prediction_files as files

    _show(files.score_depths(predictions, true, align="none" if metric else "median"), out)


def multiview_pose(predictions: PositionalFile, *, true: File, out: File | None = None) -> None:
    """Score multi-view camera poses: RRA@15, RTA@15 and mAA(30) per category.

    example: codistill eval multiview-pose predictions.json --true co3d.json

    Args:
        predictions: JSON of {category: {sequence: world-to-camera matrices}}.
        true: the same for the same frames.
        out: also write the figures here, as JSON.
    """
    from eval.tasks import prediction_files as files

    _show(files.score_poses(predictions, true), out)


def _show(table: Mapping[str, Mapping[str, float]], out: Path | None) -> None:
    """Print one line a figure; write all of them as JSON where asked, NaN as null."""
    if out is not None:
        if out.exists():
            raise OutputExists(f"output '{out}' exists. Delete it or choose another --out")
        plain: dict[str, Any] = {
            name: {figure: None if value != value else value for figure, value in row.items()}
            for name, row in table.items()
        }
        out.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    for name, row in table.items():
        sys.stdout.write(f"{name}\n")
        for figure, value in row.items():
            sys.stdout.write(f"  {figure:<24} {value:>10.4g}\n")
