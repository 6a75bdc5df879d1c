"""`codistill init`: look at folders of images and write a catalogue of them."""

from store.common.interrupts import end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from store import errors
from store.common.cli import run as run_command
from store.common.constraints import OutputFile

if TYPE_CHECKING:
    from tqdm import tqdm

    from extract.init.catalogue_text import Found
    from extract.init.folders import Tree

CACHE = "cache"  # proposed name
VIDEOS = "videos are not read: write their frames as images (ffmpeg -i VIDEO -vf fps=1 FOLDER/%06d.jpg)"
Folders = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER...")]


def init(
    folders: Folders, /, *, out: Annotated[Path, OutputFile()] = Path("catalogue.toml"), overwrite: bool = False
) -> None:
    """Look at folders of images and write a commented catalogue of them, ready for `codistill extract plan` and `run`.

    Each folder is a group of datasets, or several if its folders have splits of their own. Splits are told by the names
    of folders (train, val, test ...) or of tar and Parquet files. No image is read but the headers of some.

    example: codistill init /data/people /data/scenes --out catalogue.toml

    Args:
        folders: folders of images, tar files (webdataset) or Parquet files (Hugging Face).
        out: catalogue to write.
        overwrite: replace an existing file.
    """
    from extract.catalogue import load_catalogue
    from extract.init.catalogue_text import catalogue_text
    from extract.init.teachers import choose_teachers
    from store.common import atomic

    _refuse(folders)
    if out.exists() and not overwrite:
        raise errors.OutputExists(f"'{out}' exists. Pass --overwrite to replace it, or choose another --out")
    found, trees = _found(folders)
    _refuse_nothing(found, trees)
    teachers = choose_teachers()
    with atomic.replacing(out) as partial:
        partial.write_text(catalogue_text(found, teachers, out=out), encoding="utf-8")
        load_catalogue(partial)
    for line in (*_table(found), *_notes(found, trees), teachers.sentence, f"wrote {out}"):
        print(line)
    catalogue, cache = shlex.quote(str(out)), shlex.quote(str(out.parent / CACHE))
    print("\nRead it, change what is wrong, then:")
    print(f"  codistill extract plan {catalogue} --cache {cache}   # what it will cost; writes nothing")
    print(f"  codistill extract run {catalogue} --cache {cache}    # do it; stop and go on at any time")


def _refuse(folders: Sequence[Path]) -> None:
    """Refuse folders that do not exist, that a catalogue cannot name, or that lie within one another."""
    from extract.catalogue import UNEXPANDED_VARIABLE

    if not folders:
        raise errors.InvalidInput("codistill init: name at least one folder of images")
    for folder in folders:
        shown = str(folder).encode("utf-8", "backslashreplace").decode()
        if not folder.is_dir():
            reason = "not a folder" if folder.exists() else "no such folder"
            raise errors.MissingFile(f"'{shown}': {reason}. Check the path")
        if shown != str(folder):
            raise errors.InvalidInput(f"'{shown}': its name is not UTF-8, so no catalogue can name it. Rename it")
        if UNEXPANDED_VARIABLE.search(str(folder.absolute())):
            raise errors.InvalidInput(
                f"'{shown}': a catalogue would take the '$' for a variable. Rename it, or give a link to it"
            )
    resolved = [folder.resolve() for folder in folders]
    for folder, one in zip(folders, resolved, strict=True):
        for other, within in zip(folders, resolved, strict=True):
            if folder is not other and within.is_relative_to(one):
                raise errors.InvalidInput(f"'{other}' lies in '{folder}': its images would be taken twice. Give one")


def _found(folders: Sequence[Path]) -> "tuple[list[Found], list[Tree]]":
    from extract.init.catalogue_text import Found
    from extract.init.folders import look
    from extract.init.guess import guess, with_unique_names
    from extract.init.measure import measure

    with _progress("files") as bar:
        trees = [look(folder, bar.update) for folder in folders]
    guesses = with_unique_names(one for tree in trees for one in guess(tree))
    with _progress("tar and Parquet files") as bar:
        return [Found(guess=one, numbers=measure(one, bar.update)) for one in guesses], trees


def _progress(unit: str) -> "tqdm[Any]":
    """Return a counter that shows itself on a terminal after a second."""
    from tqdm import tqdm

    return tqdm(unit=f" {unit}", delay=1.0, disable=not sys.stderr.isatty(), leave=False)


def _refuse_nothing(found: "Sequence[Found]", trees: "Sequence[Tree]") -> None:
    """Refuse folders without a single image."""
    problems = []
    for tree in trees:
        of_tree = [one for one in found if one.guess.root.is_relative_to(tree.root)]
        if any(not one.numbers.problem for one in of_tree):
            continue
        contents = tree.contents.values()
        others = sum(one.others + len(one.packed) for one in contents)
        reasons = [f"{one.guess.kind}: {one.numbers.problem}" for one in of_tree]
        packed = [name for one in contents for name in one.packed]
        videos = [name for one in contents for name in one.videos]
        if videos:
            reasons.append(f"{len(videos):,} {VIDEOS}")
        if packed:
            reasons.append(f"'{packed[0]}' must be unpacked first: only plain tar files are read in place")
        problems.append(
            f"no images in '{tree.root}': {'; '.join(reasons) or f'{others:,} other files'}. Expected image files "
            "(jpg, png, webp, tif ...), tar files or Parquet files with images"
        )
    if problems:
        raise errors.InvalidInput(". ".join(problems))


def _table(found: "Sequence[Found]") -> list[str]:
    """Return a line for each dataset."""
    rows = [("dataset", "group", "split", "images", "views", "from")]
    for one in found:
        images = "?" if one.numbers.images is None else f"{'' if one.numbers.exact else '~'}{one.numbers.images:,}"
        kind = one.guess.kind if one.guess.kind == "images" else f"{one.guess.files:,} {one.guess.kind} files"
        left_out = f" (left out: {one.numbers.problem})" if one.numbers.problem else ""
        rows.append((one.guess.name, one.guess.group, one.guess.split, images, str(one.views), f"{kind}{left_out}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join([*map(str.ljust, row[:5], widths), row[5]]) for row in rows]


def _notes(found: "Sequence[Found]", trees: "Sequence[Tree]") -> list[str]:
    """Return sentences about what is left out or doubtful."""
    from extract.init.measure import REFUSED
    from extract.init.toml_text import comment

    notes = []
    for tree in trees:
        packed = [name for contents in tree.contents.values() for name in contents.packed]
        videos = [name for contents in tree.contents.values() for name in contents.videos]
        for count, what, names in (
            (len(tree.linked), "folders behind symbolic links are not entered", tree.linked),
            (len(tree.unreadable), "folders cannot be listed", tree.unreadable),
            (len(packed), "archives are left out: only plain tar files are read in place", packed),
            (len(videos), VIDEOS, videos),
            (len(tree.not_utf8), "names are not UTF-8: rename them, or these images fail", tree.not_utf8),
        ):
            if count:
                notes.append(f"{count:,} {what}" + (f", first '{comment(names[0])}'" if names else ""))
    for one in found:
        if one.guess.refused and not one.numbers.problem:
            notes.append(f"'{one.guess.name}': {one.guess.refused:,} more images are {REFUSED}")
        for folder, count in one.guess.doubtful.items():
            notes.append(f"'{one.guess.name}': {count:,} images in '{comment(folder)}': photographs? See `exclude`")
    return notes


def main(argv: list[str] | None = None) -> int:
    """Run `codistill init ...` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    commands = {"init": init}
    return run_command("codistill", "Write a catalogue of folders of images.", commands, argv=["init", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
