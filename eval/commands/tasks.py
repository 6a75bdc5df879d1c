"""`codistill eval relocalisation`, `human-mesh`, `multiview-depth` and `multiview-pose`: scores of prediction files."""

import sys

from eval.commands.options import File, FileOrNone, FirstFile, FirstFolder, Folder, FolderOrNone
from eval.commands.output import show_scores
from store.errors import InvalidInput

LISTED_SKIPS = 5


def relocalisation(
    estimates: FirstFile, *, data: FolderOrNone = None, write: FileOrNone = None, out: FileOrNone = None
) -> None:
    """Score Map-free Relocalisation (VCRE, precision, AUC, pose errors), or write a submission of a method's estimates.

    example: codistill eval relocalisation submission.zip --data mapfree/val

    Args:
        estimates: submission (zip of pose_<scene>.txt), or JSON of estimates; docs/evaluation-probes.md has its layout.
        data: folder of scenes with poses.txt and intrinsics.txt, to score with.
        write: zip file to write the estimates to, as a submission; works without --data, as for the test set, whose
            true poses are not public.
        out: JSON file for the scores.
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
    for line in submission.skipped[:LISTED_SKIPS]:
        sys.stderr.write(f"skipped: {line}\n")
    if len(submission.skipped) > LISTED_SKIPS:
        sys.stderr.write(f"skipped: {len(submission.skipped) - LISTED_SKIPS} more lines\n")
    if write is not None:
        files.write_submission(write, submission.scenes)
        sys.stdout.write(f"submission: {write}\n")
    if data is not None:
        scenes = files.read_scenes(data)
        scores = files.score(scenes, submission)
        for note in files.notes(scenes, submission):
            sys.stderr.write(f"{note}\n")
        if not scores["estimated"]:
            sys.stderr.write("no scored frame has an estimate: the benchmark gives no scores in this case\n")
        show_scores({"all scenes": scores}, out=out)


def human_mesh(predictions: FirstFile, *, true: File, out: FileOrNone = None) -> None:
    """Score human meshes: precision, recall, F1, PVE and PA-PVE. docs/evaluation-probes.md has the layout of the files.

    example: codistill eval human-mesh predictions.npz --true bedlam-val.npz

    Args:
        predictions: .npz file of predicted people, or a folder of such files.
        true: .npz file of true people, or a folder of files with the names of the predictions.
        out: JSON file for the scores.
    """
    from eval.tasks import prediction_files as files

    show_scores({"all images": files.score_human_meshes(predictions, true)}, out=out)


def multiview_depth(predictions: FirstFolder, *, true: Folder, metric: bool = False, out: FileOrNone = None) -> None:
    """Score multi-view depth: absolute relative error and inliers per set, at the best number of source views.

    example: codistill eval multiview-depth predictions --true robustmvd

    Args:
        predictions: folder of SET/SAMPLE.npz.
        true: folder of SET/SAMPLE.npz with the true depth.
        metric: take the predictions as metres, without scaling them to the median of the true depth.
        out: JSON file for the scores.
    """
    from eval.tasks import prediction_files as files

    show_scores(files.score_depths(predictions, true, align="none" if metric else "median"), out=out)


def multiview_pose(predictions: FirstFile, *, true: File, out: FileOrNone = None) -> None:
    """Score multi-view camera poses: RRA@15, RTA@15 and mAA(30) per category.

    example: codistill eval multiview-pose predictions.json --true co3d.json

    Args:
        predictions: JSON of {category: {sequence: world-to-camera matrices}}.
        true: JSON of the true matrices, with the same categories, sequences and frames.
        out: JSON file for the scores.
    """
    from eval.tasks import prediction_files as files

    show_scores(files.score_poses(predictions, true), out=out)
