"""`codistill eval heads predict mast3r` and `hph`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from eval.commands.heads_train import BodyModelSource
from eval.commands.options import Directory, InputFile, Student, StudentOrNone
from store.common.constraints import AtLeast, Device, ExistingFile, Positive
from store.errors import InvalidInput

Picture = Annotated[Path, tyro.conf.Positional, ExistingFile()]
Camera = Annotated[
    tuple[float, float, float, float] | None,
    AtLeast(0),
    tyro.conf.arg(metavar="FX FY CX CY", help_behavior_hint="(optional)"),
]
BodyOrNone = Annotated[
    str | None, BodyModelSource(), tyro.conf.arg(metavar="FILE|anny", help_behavior_hint="(optional)")
]
LongSide = Annotated[
    int | None, AtLeast(1), tyro.conf.arg(metavar="PX", help_behavior_hint="(default: as in the training)")
]


def commands(arguments: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Return the commands."""
    return {"mast3r": mast3r, "hph": hph}


def mast3r(
    first: Annotated[Picture, tyro.conf.arg(metavar="FIRST")],
    second: Annotated[Picture, tyro.conf.arg(metavar="SECOND")],
    weights: InputFile,
    out: Directory,
    student: StudentOrNone = None,
    intrinsics1: Camera = None,
    intrinsics2: Camera = None,
    long_side: LongSide = None,
    method: Literal["pnp", "essential"] = "pnp",
    library: Literal["opencv", "poselib"] = "opencv",
    subsample: Positive = 8,
    least_confidence: Annotated[float, AtLeast(0)] = 1.0,
    device: Device = "auto",
) -> None:
    """Predict points, depth, matches and relative pose of two pictures.

    example: codistill eval heads predict mast3r A.jpg B.jpg --weights heads/a/mast3r.pth --student runs/a --out look

    Args:
        first: picture whose camera is the frame of all points.
        second: picture of the same scene.
        weights: trained head, a released file of DUNE-MASt3R, or one of MASt3R.
        out: folder for points.ply, points.glb, depth.png, confidence.png, matches.png, maps.npz, pose.json.
        student: run or encoder file that the head was trained on; MASt3R's own files have their encoder.
        intrinsics1: camera of the first picture, px; without it, it is estimated from the predicted points.
        intrinsics2: camera of the second picture.
        long_side: longer side that pictures are resized to.
        method: pnp from points of the first picture, or essential from pixels and depths.
        library: whose solver finds the pose.
        subsample: distance of the pixels that matching starts from, px.
        least_confidence: points of less confidence are left out of the clouds.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from eval.heads.mast3r.predict_files import predict_files

    prediction = predict_files(
        (first, second),
        weights=weights,
        out=out,
        student=student,
        intrinsics=(intrinsics1, intrinsics2),
        long_side=long_side,
        method=method,
        library=library,
        subsample=subsample,
        least_confidence=least_confidence,
        device=device,
    )
    pose = prediction.pose
    found = f"pose from {int(pose.inliers.sum())} of them" if not pose.failure else f"no pose: {pose.failure}"
    sys.stdout.write(f"{len(prediction.matches.pixels1)} matches, {found}. Look at '{out}'\n")


def hph(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, ExistingFile(), tyro.conf.arg(metavar="IMAGE")],
    weights: InputFile,
    student: Student,
    out: Directory,
    body: BodyOrNone = None,
    intrinsics: Camera = None,
    field_of_view: Annotated[float, AtLeast(1)] = 60.0,
    threshold: Annotated[float, AtLeast(0)] = 0.3,
    nms: Positive = 3,
    device: Device = "auto",
) -> None:
    """Find the people of pictures.

    example: codistill eval heads predict hph street.jpg --weights heads/p/head.pt --student runs/a --out look

    Args:
        images: pictures.
        weights: trained head.
        student: run or encoder file that the head was trained on.
        out: folder for NAME.png, NAME.json and, with a body model, NAME.glb.
        body: body model of the head's training, for meshes: SMPLX_NEUTRAL.npz, or anny.
        intrinsics: camera of all pictures, px.
        field_of_view: field of view of the longer side in degrees, where no intrinsics are given.
        threshold: least score of a person.
        nms: window of the detection, in cells.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    repeated = sorted({image.stem for image in images if sum(other.stem == image.stem for other in images) > 1})
    if repeated:
        raise InvalidInput(f"two pictures are named '{repeated[0]}', and so would be their files. Rename one")
    if not images:
        raise InvalidInput("no pictures: give at least one IMAGE")
    from eval.heads.hph.predict_files import predict_files

    for image, people in predict_files(
        images,
        weights=weights,
        student=student,
        out=out,
        body=body,
        intrinsics=intrinsics,
        field_of_view_degrees=field_of_view,
        threshold=threshold,
        nms_kernel=nms,
        device=device,
    ):
        sys.stdout.write(f"{image}: {people} people\n")
    sys.stdout.write(f"look at '{out}'\n")
