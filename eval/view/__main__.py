"""`codistill view`: look around in a cache, in a browser."""

from store.common.interrupts import end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from store import errors
from store.common.blas import one_thread_each
from store.common.cli import run as run_command
from store.common.constraints import AtLeast, ExistingFolder, OutputFile

if TYPE_CHECKING:
    from eval.view.runs import ShownRun

RUN = ExistingFolder(kind="run", holds="recipe.json", advice="Give the --out of codistill train run")
HOST, PORT = "127.0.0.1", 8765

CacheArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
Runs = Annotated[tuple[Path, ...], RUN, tyro.conf.arg(metavar="RUN ...", help_behavior_hint="(optional)")]
Folders = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FOLDER ...", help_behavior_hint="(optional)")]
OutFile = Annotated[Path | None, OutputFile(), tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]


def view(
    cache: CacheArgument,
    /,
    *,
    run: Runs = (),
    port: Annotated[int, AtLeast(0)] = PORT,
    host: str = HOST,
    images: Folders = (),
    export: OutFile = None,
    state: str = "",
) -> None:
    """Look around in a cache, in a browser: rows, features of all teachers side by side, search, statistics.

    The page is read-only and only this machine reaches it. Over SSH: ssh -L 8765:localhost:8765 MACHINE

    example: codistill view demo/cache --run demo/run

    Args:
        cache: path or URL of the cache.
        run: run directories, to see students and their errors beside the teachers.
        port: port to listen on; the next free one if it is taken, any free one for 0.
        host: address to listen on; another than this machine's own makes a random token part of the page's address.
        images: folders of the source images by dataset; a folder without a name is for all others.
        export: write one view into this file (.html works offline, or .png) and end.
        state: what to export: the part of the page's address behind the question mark.
    """
    from eval.view.opened import Opened
    from store.cache.cache import open as open_cache

    folders = _folders(images)
    opened = Opened(cache=open_cache(cache), runs=_shown_runs(run), images=folders)
    unknown = [name for name in folders if name and name not in opened.listing().datasets]
    if unknown:
        opened.dataset(unknown[0])  # raises, naming those that there are
    if export is not None:
        from eval.view.export import export_view

        export_view(opened, state, export)
        print(f"wrote {export}")
        return
    from eval.view.listen import serve

    serve(opened, host=host, port=port, say=print)


def _folders(texts: Sequence[str]) -> dict[str, Path]:
    """Return folders by dataset name; a folder without a name has the empty one.

    Raises:
        errors.MissingFile: one is no folder.
    """
    folders = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        name, path = (name, Path(folder)) if equals else ("", Path(text))
        if not path.expanduser().is_dir():
            raise errors.MissingFile(f"--images '{text}': no such folder. Give NAME=FOLDER, or FOLDER for all datasets")
        folders[name] = path.expanduser()
    return folders


def _shown_runs(directories: Sequence[Path]) -> "dict[str, ShownRun]":
    """Return runs by names that tell them apart; nothing but their descriptions is read yet.

    Raises:
        errors.CodistillError: a run does not say what it was trained on.
    """
    if not directories:
        return {}
    from eval.commands.report import distinct_names
    from eval.view.runs import ShownRun

    different = list({directory.resolve(): directory for directory in directories}.values())
    runs = {name: ShownRun(name, path) for name, path in distinct_names(different).items()}
    for run in runs.values():
        run.check()
    return runs


def main(argv: list[str] | None = None) -> int:
    """Run `codistill view ...` and return its exit code."""
    one_thread_each()  # requests are answered side by side
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    return run_command("codistill", "Look around in a cache, in a browser.", {"view": view}, argv=["view", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
