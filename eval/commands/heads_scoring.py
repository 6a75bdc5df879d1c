"""`codistill eval heads score`: benchmarks of task heads, from images to figures."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import tyro

from eval.commands.heads_predict import LongSide
from eval.commands.heads_train import BodySource
from eval.commands.options import DataFolder, Directory, InputFile, Student, StudentOrNone
from eval.heads.scoring.settings import ESSENTIAL, DepthSettings, DetectionSettings, PoseSettings
from store.common.constraints import AtLeast, Device, NotNegative, Positive

Plain = tyro.conf.arg(name="")
_POSE, _DEPTH, _DETECTION = PoseSettings(), DepthSettings(), DetectionSettings()


def commands(arguments: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Return the commands."""
    return {
        "map-free": map_free,
        "multiview-depth": multiview_depth,
        "multiview-pose": multiview_pose,
        "human-mesh": human_mesh,
    }


def map_free(
    data: DataFolder,
    weights: InputFile,
    out: Directory,
    student: StudentOrNone = None,
    split: Literal["val", "test"] = "val",
    every: Positive = 5,
    pose: Annotated[PoseSettings, Plain] = _POSE,
    long_side: LongSide = None,
    device: Device = "auto",
) -> int:
    """Localise the queries of Map-free, write the submission, and score it on the validation set.

    example: codistill eval heads score map-free --data mapfree --weights W.pth --student runs/a --out scores/mapfree

    Args:
        data: folder with val and test, as Niantic's archive has them.
        weights: trained head, a released file of DUNE-MASt3R, or one of MASt3R.
        out: folder for submission.zip, scores.json and the results by scene; a run that was stopped goes on there.
        student: run or encoder file that the head was trained on; MASt3R's own files have their encoder.
        split: val is scored; of test the true poses are not public.
        every: predict every so many frames; 5 are those that the benchmark scores, 1 all.
        pose: how a pose is made from a pair.
        long_side: longer side of the images.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from eval.commands.output import show_scores
    from eval.heads.scoring import mapfree
    from eval.heads.scoring.open_models import open_predictor

    predictor = open_predictor(weights, student=student, device=device, long_side=long_side)
    found = mapfree.score(predictor, data, out, split=split, every=every, settings=pose, progress=True)
    sys.stdout.write(f"submission: {found.submission}\n")
    if found.scores:
        show_scores({"all scenes": found.scores}, out=None)
    return _told(found.notes, failed=bool(found.outcome.failures))


def multiview_depth(
    data: DataFolder,
    weights: InputFile,
    out: Directory,
    student: StudentOrNone = None,
    settings: Annotated[DepthSettings, Plain] = _DEPTH,
    long_side: LongSide = None,
    device: Device = "auto",
) -> int:
    """Predict and score multi-view depth: absolute relative error and inliers per set.

    example: codistill eval heads score multiview-depth --data robustmvd --weights W.pth --student S.pth --out scores/d

    Args:
        data: folder of SET/SAMPLE.npz and SET/SAMPLE/key.png; docs/scoring.md has the layout.
        weights: trained head, a released file of DUNE-MASt3R, or one of MASt3R.
        out: folder for scores.json and the results by sample; a run that was stopped goes on there.
        student: run or encoder file that the head was trained on; MASt3R's own files have their encoder.
        settings: how depth is predicted and scored.
        long_side: longer side of the images.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from eval.commands.output import show_scores
    from eval.heads.scoring import multiview_depth as protocol
    from eval.heads.scoring.open_models import open_predictor

    predictor = open_predictor(weights, student=student, device=device, long_side=long_side)
    found = protocol.score(predictor, data, out, settings=settings, progress=True)
    show_scores(found.table, out=None)
    return _told(found.notes, failed=bool(found.outcome.failures))


def multiview_pose(
    data: DataFolder,
    dataset: Literal["co3d", "realestate10k"],
    weights: InputFile,
    out: Directory,
    student: StudentOrNone = None,
    frames: Annotated[int, AtLeast(2)] = 10,
    seed: NotNegative = 0,
    pose: Annotated[PoseSettings, Plain] = ESSENTIAL,
    long_side: LongSide = None,
    device: Device = "auto",
) -> int:
    """Estimate and score relative poses of random frames: RRA@15, RTA@15 and mAA(30) per category.

    example: codistill eval heads score multiview-pose --data co3d --dataset co3d --weights W.pth --out scores/p

    Args:
        data: root of the dataset; docs/scoring.md has the layouts.
        dataset: its layout.
        weights: trained head, a released file of DUNE-MASt3R, or one of MASt3R.
        out: folder for scores.json and the results by sequence; a run that was stopped goes on there.
        student: run or encoder file that the head was trained on; MASt3R's own files have their encoder.
        frames: frames drawn of each sequence; all their pairs are scored.
        seed: decides which frames.
        pose: how a pose is made from a pair.
        long_side: longer side of the images.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from eval.commands.output import show_scores
    from eval.heads.scoring import multiview_pose as protocol
    from eval.heads.scoring.open_models import open_predictor

    predictor = open_predictor(weights, student=student, device=device, long_side=long_side)
    found = protocol.score(
        predictor, data, out, dataset=dataset, frames=frames, seed=seed, settings=pose, progress=True
    )
    show_scores(found.table, out=None)
    return _told(found.notes, failed=bool(found.outcome.failures))


def human_mesh(
    data: DataFolder,
    weights: InputFile,
    student: Student,
    body: BodySource,
    out: Directory,
    split: Literal["training", "validation"] = "validation",
    every: Positive = 25,
    settings: Annotated[DetectionSettings, Plain] = _DETECTION,
    device: Device = "auto",
) -> int:
    """Find the people of images in BEDLAM's layout and score them: F1, PVE and PA-PVE.

    example: codistill eval heads score human-mesh --data BEDLAM --weights H.pt --student S --body SMPLX.npz --out p

    Args:
        data: folder in BEDLAM's layout.
        weights: trained head.
        student: run or encoder file that the head was trained on.
        body: body model of the data and of the head: SMPLX_NEUTRAL.npz, or anny.
        out: folder for scores.json and the results by image; a run that was stopped goes on there.
        split: part of the data.
        every: take every so many images; the authors' evaluation takes every 25th.
        settings: how people are detected.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from eval.commands.output import show_scores
    from eval.heads.hph.bedlam import Bedlam
    from eval.heads.scoring import human_mesh as protocol
    from eval.heads.scoring.open_models import open_people

    images = Bedlam(data, split, every=every)
    people = open_people(weights, student=student, body=body, device=device)
    dataset = {"name": "bedlam", "split": split, "every": every}
    found = protocol.score(people, images, out, dataset=dataset, settings=settings, progress=True)
    show_scores({"all images": found.scores}, out=None)
    return _told(found.notes, failed=bool(found.outcome.failures))


def _told(notes: Iterable[str], *, failed: bool) -> int:
    """Write notes to the terminal; return the exit code, 1 if something failed."""
    for note in notes:
        sys.stderr.write(f"{note}\n")
    return int(failed)
