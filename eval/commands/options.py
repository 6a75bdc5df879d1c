"""Argument types that several commands of `codistill eval` share, with the placeholders that the help shows."""

from pathlib import Path
from typing import Annotated

import tyro

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
Caches = Annotated[str, tyro.conf.arg(metavar="CACHE[,CACHE]")]
Names = Annotated[str, tyro.conf.arg(metavar="A,B")]
Images = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE")]
Folder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
FirstFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
FirstFile = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
# `File | None` would lose the placeholder.
FolderOrNone = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
FileOrNone = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
