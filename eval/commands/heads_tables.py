"""`codistill eval heads table`: rows of the paper's tables for one student and its heads."""

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.commands.heads_predict import BodyOrNone, LongSide
from eval.commands.options import DataFolder, Directory, InputFile, InputFileOrNone, StudentOrNone
from eval.heads.scoring.settings import PoseSettings
from store.common.constraints import Device

if TYPE_CHECKING:
    from eval.encoders.open_encoder import OpenEncoder
    from eval.heads.scoring.paper_tables import TableNumber
    from eval.heads.scoring.table_parts import Models

Name = Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: name of the student or weights)")]
Teacher = Annotated[
    str | None, tyro.conf.arg(metavar="TEACHER", help_behavior_hint="(default: the student's own tokens)")
]
Plain = tyro.conf.arg(name="")
_POSE = PoseSettings()


def commands(arguments: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Return the commands, by the number of the table."""
    depth_sets = "robustmvd/{kitti,scannet,eth3d,dtu,tanks_and_temples}"
    return {
        "1": _of_student(1, "ADE20K, NYUd, Map-free and BEDLAM for one student."),
        "3": _of_student(3, "ADE20K, NYUd, BEDLAM and Map-free beside teachers and other encoders."),
        "4": table4,
        "7": _of_pair_model(7, "multi-view depth on KITTI, ScanNet, ETH3D, DTU, Tanks and Temples.", depth_sets),
        "8": _of_pair_model(8, "multi-view pose on CO3D and RealEstate10K.", "co3d and realestate10k"),
    }


def _of_student(number: "TableNumber", title: str) -> Callable[..., int]:
    """Return the command of a table of a student with all of its heads."""

    def table(
        data: DataFolder,
        out: Directory,
        student: StudentOrNone = None,
        mast3r: InputFileOrNone = None,
        hph: InputFileOrNone = None,
        body: BodyOrNone = None,
        projector: Teacher = None,
        name: Name = "",
        pose: Annotated[PoseSettings, Plain] = _POSE,
        long_side: LongSide = None,
        device: Device = "auto",
    ) -> int:
        """TITLE

        example: codistill eval heads table NUMBER --data DATA --student S --mast3r M --hph H --body B --out tNUMBER

        Args:
            data: folder with ade20k, nyud, mapfree/val and bedlam; what is not there is left out.
            out: folder for table-NUMBER.md, .csv and .json, and for results.
            student: run or encoder file.
            mast3r: MASt3R head of the student.
            hph: perception head of the student.
            body: body model of BEDLAM: SMPLX_NEUTRAL.npz.
            projector: segment with the tokens that this teacher's projector predicts, as the paper does with DINO-v2's.
            name: name of the row.
            pose: how map-free poses are made.
            long_side: longer side of the images that the MASt3R head is given.
            device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
        """
        models = _models(
            student, mast3r, hph=hph, body=body, projector=projector, pose=pose, long_side=long_side, device=device
        )
        return _write(number, models, data, out, name=name or _stem(student, mast3r))

    return _documented(table, number, title)


def table4(
    data: DataFolder,
    mast3r: InputFile,
    out: Directory,
    student: StudentOrNone = None,
    name: Name = "",
    pose: Annotated[PoseSettings, Plain] = _POSE,
    long_side: LongSide = None,
    device: Device = "auto",
) -> int:
    """Table 4: all figures of Map-free on its validation set, and the submission for its leaderboard.

    example: codistill eval heads table 4 --data DATA --mast3r dunemast3r.pth --student dune.pth --out t4

    Args:
        data: folder with mapfree/val and mapfree/test; what is not there is left out.
        mast3r: MASt3R head of the student, or a file of MASt3R.
        out: folder for table-4.md, .csv and .json, and for results.
        student: run or encoder file that the head was trained on; MASt3R's own files have their encoder.
        name: name of the row.
        pose: how poses are made.
        long_side: longer side of the images.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    return _write(
        4,
        _models(student, mast3r, pose=pose, long_side=long_side, device=device),
        data,
        out,
        name=name or _stem(student, mast3r),
    )


def _of_pair_model(number: "TableNumber", title: str, folders: str) -> Callable[..., int]:
    """Return the command of a table of a pair model."""

    def table(
        data: DataFolder,
        mast3r: InputFile,
        out: Directory,
        student: StudentOrNone = None,
        name: Name = "",
        long_side: LongSide = None,
        device: Device = "auto",
    ) -> int:
        """TITLE

        example: codistill eval heads table NUMBER --data DATA --mast3r dunemast3r.pth --student dune.pth --out tNUMBER

        Args:
            data: folder with DATA_FOLDERS.
            mast3r: MASt3R head of the student, or a file of MASt3R.
            out: folder for table-NUMBER.md, .csv and .json, and for results.
            student: run or encoder file that the head was trained on; MASt3R's own files have their encoder.
            name: name of the row.
            long_side: longer side of the images that the MASt3R head is given.
            device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
        """
        return _write(
            number,
            _models(student, mast3r, long_side=long_side, device=device),
            data,
            out,
            name=name or _stem(student, mast3r),
        )

    return _documented(table, number, title, folders)


def _documented(command: Callable[..., int], number: int, title: str, folders: str = "") -> Callable[..., int]:
    text = (command.__doc__ or "").replace("TITLE", f"Table {number}: {title}").replace("NUMBER", str(number))
    command.__doc__ = text.replace("DATA_FOLDERS", folders)
    return command


def _models(
    student: Path | None,
    mast3r: Path | None,
    *,
    hph: Path | None = None,
    body: str | None = None,
    projector: str | None = None,
    pose: PoseSettings = _POSE,
    long_side: int | None = None,
    device: str = "auto",
) -> "Models":
    from eval.heads.scoring.open_models import open_people, open_predictor
    from eval.heads.scoring.table_parts import Models

    opened = partial(open_predictor, student=student, device=device, long_side=long_side)
    people = encoder = None
    if student is not None:
        encoder = partial(_probed, student, projector, device)
        if hph is not None and body is not None:
            people = cache(partial(open_people, hph, student=student, body=body, device=device))
    return Models(
        pairs=None if mast3r is None else cache(partial(opened, mast3r)),  # opened once, though two parts may use it
        people=people,
        encoder=encoder,
        pose=pose,
        progress=True,
    )


def _probed(student: Path, projector: str | None, device: str, final_norm: bool) -> "OpenEncoder":
    """Open the student of a probe; only segmentation reads its tokens behind the final norm, or a projector's."""
    from eval.heads.scoring.open_models import open_probed

    return open_probed(student, projector=projector if final_norm else None, final_norm=final_norm, device=device)


def _write(number: "TableNumber", models: "Models", data: Path, out: Path, *, name: str) -> int:
    """Write a table and show it; return the exit code, 1 if a part of it is missing."""
    from eval.heads.scoring.table_parts import parts_of
    from eval.heads.scoring.tables import write_table

    result = write_table(number, parts_of(number, models), data, out, method=name)
    sys.stdout.write(result.markdown)
    sys.stdout.write(f"\nwritten: {out / f'table-{number}.md'}\n")
    return int(not result.complete)


def _stem(student: Path | None, mast3r: Path | None) -> str:
    source = student or mast3r
    return source.resolve().stem if source is not None else "model"
