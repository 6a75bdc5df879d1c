"""Argument types that several commands of `codistill eval` share, with the placeholders that the help shows."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from store.cache.argument import ExistingCaches
from store.common.arguments import COMMAS
from store.common.constraints import ExistingFile, ExistingFolder, OutputFile


class RunOrWeights:
    """A student: the directory of a run, or a weight file. A `store.common.constraints.Constraint`."""

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        if not Path(value).is_file():
            ONE_RUN.check(subject, value)


ONE_RUN = ExistingFolder(kind="run", holds="recipe.json", advice="Give the --out of codistill train run")
RUN_OR_SWEEP = ExistingFolder(kind="run", advice="Give the --out of codistill train run or sweep")

Run = Annotated[tyro.conf.Positional[Path], ONE_RUN, tyro.conf.arg(metavar="RUN")]
Runs = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    RUN_OR_SWEEP,
    tyro.conf.arg(metavar="RUN", help_behavior_hint="(at least one)"),
]
Caches = Annotated[
    str,
    COMMAS,
    ExistingCaches(),
    tyro.conf.arg(metavar="CACHE[,CACHE]", help_behavior_hint="(default: where they were in training)"),
]
Datasets = Annotated[str, COMMAS, tyro.conf.arg(metavar="A,B", help_behavior_hint="(default: all held-out ones)")]
Scheduler = Annotated[str, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="(default: threads of this process)")]
Images = Annotated[
    tuple[Path, ...],
    ExistingFile(),
    tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(default: held-out views of the cache)"),
]
Baseline = Annotated[
    str, tyro.conf.arg(metavar="ROW", help_behavior_hint="(default: the sweep's baseline, else the best)")
]
Folder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
DataFolder = Annotated[Path, ExistingFolder(), tyro.conf.arg(metavar="FOLDER")]
File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
FirstFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
FirstFile = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
# `File | None` would lose the placeholder.
FolderOrNone = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(optional)")]
FileOrNone = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
InputFileOrNone = Annotated[Path | None, ExistingFile(), tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
OutputFileOrNone = Annotated[Path | None, OutputFile(), tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
Student = Annotated[Path, RunOrWeights(), tyro.conf.arg(metavar="RUN|FILE")]
StudentOrNone = Annotated[
    Path | None, RunOrWeights(), tyro.conf.arg(metavar="RUN|FILE", help_behavior_hint="(optional)")
]
InputFile = Annotated[Path, ExistingFile(), tyro.conf.arg(metavar="FILE")]
Directory = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
