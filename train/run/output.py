"""The --out of a training: the names in a run directory, and what must not be overwritten; imports no torch."""

from pathlib import Path

from store.errors import InvalidInput, OutputExists
from train.run.lock import FILE as LOCK

RECIPE = "recipe.json"
CACHE = "cache.json"
ROWS = "rows.npz"
CHECKPOINTS = "checkpoints"


def refuse_used(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse an output directory that a training may not write into.

    Args:
        out: run directory, existing or not.
        resume: continue the run in it.
        overwrite: delete the run in it.

    Raises:
        OutputExists: it is not empty and neither option was chosen, or it holds something else than a run.
        InvalidInput: both options were chosen.
    """
    if resume and overwrite:
        raise InvalidInput("--resume and --overwrite exclude each other. Choose one")
    if not out.exists() or is_blank(out):
        return
    if not is_run(out):
        raise OutputExists(f"output '{out}' is not empty and not a run. Choose another --out")
    if not (resume or overwrite):
        raise OutputExists(
            f"output '{out}' is not empty. Pass --resume to continue it, --overwrite to delete it, or choose "
            "another --out"
        )


def is_run(out: Path) -> bool:
    """Tell whether a run was begun in a directory."""
    return (out / RECIPE).is_file()


def is_blank(out: Path) -> bool:
    """Tell whether a directory is empty but for the files of a run that was killed before it wrote its recipe."""
    ours = {CACHE, ROWS, LOCK}
    return out.is_dir() and all(path.name in ours or ".partial" in path.suffixes for path in out.iterdir())
