"""`codistill store`: show, seal, check, repair, export and convert a cache, and delete parts of it.

Commands import what they need when they run, so that help and completion are quick.
"""

from store.common.interrupts import INTERRUPTED, end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported


import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from store import errors
from store.common.arguments import COMMAS, WHOLE
from store.common.blas import one_thread_each
from store.common.cli import run
from store.common.constraints import AtLeast, Device, ExistingFile, NotNegative

if TYPE_CHECKING:
    from rich.console import Console

UNWRAPPED_COLUMNS = 160  # of a table that goes into a file or a pipe
CacheArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
DatasetArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
NameList = Annotated[str, COMMAS, tyro.conf.arg(metavar="A,B", help_behavior_hint="(default: all)")]


def info(cache: CacheArgument, /, *, identities: bool = False, json: bool = False) -> None:
    """Say whether all is well with a cache, and show its datasets and teachers: rows done, failed, missing, and bytes.

    example: codistill store info demo/cache

    Args:
        cache: path or URL of the cache.
        identities: also show every teacher's identity (architecture, weights, preprocessing) in full.
        json: print JSON for other programs.
    """
    from dataclasses import asdict

    from store.cache.cache import open as open_cache
    from store.format.schema import json_bytes
    from store.inspection.health import sentence
    from store.inspection.info import inspect
    from store.inspection.info_table import render

    summary = inspect(open_cache(cache))
    if json:
        print(json_bytes({"sentence": sentence(summary), **asdict(summary)}, indent=2).decode())
    else:
        render(summary, _console(), identities=identities)


def seal(cache: CacheArgument, /) -> None:
    """Write manifest, status and statistics of a cache from its shards; repeat it whenever shards were added.

    example: codistill store seal demo/cache

    Args:
        cache: path or URL of the cache.
    """
    from store.sealing.seal import seal as seal_cache

    report = seal_cache(cache, progress=sys.stderr.isatty())
    for array in report.arrays:
        rows = f"{array.ok:,} ok, {array.failed:,} failed, {array.missing:,} missing"
        done = "sealed" if array.changed else "up to date"
        print(f"{array.dataset}/{array.array}: {done}, {array.sealed_shards:,} of {array.shards:,} shards, rows {rows}")
        for reason, count in array.reasons.items():
            print(f"  failed: {count:,} x {reason}")
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for key in report.removed:
        print(f"removed leftover of a dead writer: {key}")


def show(
    cache: CacheArgument,
    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET[/TEACHER]")],
    rows: Annotated[
        tuple[str, ...], WHOLE, tyro.conf.Positional, tyro.conf.arg(metavar="ROW|FIRST:END|FIRST-LAST|IMAGE...")
    ] = (),
    /,
    *,
    out: Path,
    where: str = "",
    page: Annotated[int | None, AtLeast(1), tyro.conf.arg(metavar="N")] = None,
    rows_per_page: Annotated[int | None, AtLeast(1), tyro.conf.arg(metavar="N")] = None,
    teachers: NameList = "",
    patch: str = "",
    images: Path | None = None,
) -> None:
    """Plot rows: photograph, stored pixels, and every teacher's principal components, similarities and norms.

    Rows that do not fit a screen go into several files, NAME-1.png, NAME-2.png, ..., all with the same scales.

    example: codistill store show demo/cache people 3 17 40:48 'astro*.png' --where 'view < 4' --out rows.png

    Args:
        cache: path or URL of the cache.
        dataset: dataset name; with a teacher's name, that teacher alone.
        rows: row numbers, ranges without their end (100:200) or with it (100-199), names of images or quoted patterns
            of them (all views of each); all rows if there are none, of which one page is drawn.
        out: picture file to write: PNG, PDF, SVG or JPEG.
        where: condition on the manifest's columns that rows must meet, as `data.subset` of a training.
        page: the only page to draw, into the file itself; all pages of the rows named if not given.
        rows_per_page: rows on a page, if fewer than fit a screen.
        teachers: teacher names, separated by commas; all if empty.
        patch: ROW,COL of the patch that all others are compared to; the central one if empty.
        images: folder that the dataset's image paths are relative to, to show the photographs.
    """
    from store.cache.cache import open as open_cache
    from store.common.arguments import names_of, patch_of
    from store.inspection.pages import draw_pages
    from store.inspection.row_choice import choose_rows

    name, _, teacher = dataset.partition("/")
    if teacher and teachers:
        raise errors.InvalidInput(f"'{dataset}' names a teacher, and so does --teachers. Leave one out")
    chosen, opened = patch_of(patch), open_cache(cache)[name]
    pages = draw_pages(
        opened,
        choose_rows(opened, rows, where=where, images=images),
        out,
        page=page if page is not None or rows or where else 1,
        rows_per_page=rows_per_page,
        teachers=[teacher] if teacher else names_of(teachers),
        images=images,
        patch=chosen,
    )
    print(pages)


def failures(
    cache: CacheArgument,
    /,
    *,
    dataset: NameList = "",
    array: NameList = "",
    out: Path | None = None,
    limit: NotNegative = 50,
) -> None:
    """List the rows that failed, with image and reason; tokens that failed only because their pixels did are left out.

    example: codistill store failures demo/cache --dataset people --out failed.csv

    Args:
        cache: path or URL of the cache.
        dataset: dataset names, separated by commas; all if empty.
        array: `pixels` or teacher names, separated by commas; all if empty.
        out: CSV or Parquet file to write the whole list to, instead of showing it.
        limit: lines to show.
    """
    from store.cache.cache import open as open_cache
    from store.common.arguments import names_of
    from store.inspection.failures import failures as find_failures
    from store.inspection.failures import render, write_table

    table = find_failures(open_cache(cache), datasets=names_of(dataset), arrays=names_of(array))
    if out is not None:
        write_table(table, out)
        print(f"wrote {table.num_rows:,} rows to {out}")
    else:
        render(table, _console(), limit=limit)


def export(
    cache: CacheArgument,
    dataset: DatasetArgument,
    rows: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ROW|FIRST:END...")],
    /,
    *,
    out: Path,
    arrays: NameList = "",
    skip: bool = False,
    overwrite: bool = False,
) -> None:
    """Write rows into one file for other programs; its suffix chooses .npz, .safetensors or .parquet.

    example: codistill store export demo/cache people 0:64 100 --arrays pixels,lite0 --out rows.npz

    Args:
        cache: path or URL of the cache.
        dataset: dataset name.
        rows: row numbers, and ranges without their end, as in Python; `:` is all rows.
        out: file to write.
        arrays: `pixels` and teacher names, separated by commas; all if empty.
        skip: leave out rows that failed or are missing, instead of refusing them.
        overwrite: replace an existing file.
    """
    from store.cache.cache import open as open_cache
    from store.common.arguments import names_of, rows_of
    from store.format.schema import PIXELS
    from store.inspection.export import export as export_rows

    opened = open_cache(cache)[dataset]
    names = names_of(arrays) or [PIXELS, *opened.teachers]
    count = export_rows(opened, rows_of(rows, rows=opened.rows), names, out, skip=skip, overwrite=overwrite)
    print(f"wrote {count:,} rows of {', '.join(names)} to {out}")


def verify(
    cache: CacheArgument,
    /,
    *,
    quick: bool = False,
    repair: bool = False,
    yes: bool = False,
    json: bool = False,
    catalogue: Annotated[Path | None, ExistingFile()] = None,
    device: Device = "auto",
) -> int:
    """Check every stored byte and table of a cache, and repair it on request; exit code 1 if anything is wrong.

    example: codistill store verify demo/cache --repair --catalogue demo/catalogue.toml

    Args:
        cache: path or URL of the cache.
        quick: read only the trailer of each shard (checksums, status), not its rows.
        repair: rebuild damaged shards; rows whose checksums hold are copied, the others recomputed.
        yes: repair without asking.
        json: print JSON for other programs.
        catalogue: catalogue file with the places of images and weights, for rows that must be recomputed.
        device: device that teachers run on during a repair: `auto`, `cpu`, `cuda`, ...
    """
    from store.format.schema import json_bytes
    from store.verify.report import advice, check, check_and_repair

    say = _silent if json else print
    progress = sys.stderr.isatty()
    if repair:
        confirm = _agree if yes else _ask
        outcome = check_and_repair(
            cache, quick=quick, confirm=confirm, catalogue=catalogue, device=device, progress=progress, say=say
        )
    else:
        report, outcome = check(cache, quick=quick, progress=progress, say=say)
        if outcome.wrong:
            say(advice(report))
    if json:
        print(json_bytes(outcome.document, indent=2).decode())
    return int(outcome.wrong)


def delete(
    cache: CacheArgument,
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET[/TEACHER]")],
    /,
    *,
    yes: bool = False,
) -> int:
    """Delete a dataset, or the tokens of one teacher in it, for good; exit code 1 if you decide against it.

    It may be interrupted at any time: what is left is a readable cache, and the same command goes on.

    example: codistill store delete demo/cache people/lite0

    Args:
        cache: path or URL of the cache.
        name: dataset, with its pixels and all of its tokens, or DATASET/TEACHER for the tokens of one teacher.
        yes: delete without asking.
    """
    from store.cache import deletion
    from store.cache.cache import open as open_cache
    from store.common.text import human_bytes

    storage = open_cache(cache).storage
    planned = deletion.plan(storage, name)
    tokens = f"tokens of {', '.join(planned.teachers)}" if planned.teachers else "no tokens"
    contents = tokens if planned.teacher else f"pixels and {tokens}"
    size = f"{planned.objects:,} objects, {human_bytes(planned.stored_bytes)}"
    question = f"delete '{planned.name}' of {storage.location} ({contents}; {size})? It cannot be undone."
    if not yes and not _confirmed(question, "store delete"):
        print("nothing was deleted")
        return 1
    try:
        deletion.delete(storage, name)
    except KeyboardInterrupt:
        message = f"interrupted: part of '{planned.name}' is deleted. Run the same command again to delete the rest"
        print(f"\n{message}", file=sys.stderr)
        return INTERRUPTED
    print(f"deleted '{planned.name}' ({contents}): {size} freed")
    return 0


def compact(
    cache: CacheArgument,
    /,
    *,
    out: str,
    ratio: Annotated[float | None, AtLeast(1), tyro.conf.arg(metavar="N")] = None,
    lossless: bool = False,
    teachers: NameList = "",
    basis: Literal["pca", "rotation"] = "pca",
) -> None:
    """Make a smaller cache of the same rows: tokens of training datasets in a code, a fraction of the bytes.

    The cache itself is not changed; pixels and held-out datasets are shared with it by links, or copied. It may be
    interrupted at any time: the same command goes on.

    example: codistill store compact demo/cache --out demo/compact --ratio 16

    Args:
        cache: path or URL of the cache.
        out: path or URL of the new cache.
        ratio: bytes of float16 tokens over those of their codes: 4, 8, 16, 32 or any other number above 1.
        lossless: keep every bit instead: compress float16 tokens by a sixth, for archives; needs a sealed cache.
        teachers: teacher names, separated by commas; the others keep their form. All if empty.
        basis: kind of code: `pca`, or `rotation`, which needs no basis and has more noise.
    """
    from store.common.arguments import names_of
    from store.compact.compact import compact as make_compact
    from store.inspection.info import inspect
    from store.inspection.info_table import render

    report = make_compact(
        cache,
        out,
        ratio=ratio,
        lossless=lossless,
        teachers=names_of(teachers) or (),
        basis=basis,
        progress=sys.stderr.isatty(),
    )
    for note in (*report.notes, *(f"warning: {warning}" for warning in report.seal.warnings)):
        print(note, file=sys.stderr)
    there = f", {report.present:,} were there" if report.present else ""
    print(f"wrote {report.converted:,} shards to {report.cache.location}{there}")
    render(inspect(report.cache), _console(), identities=False)


def _console() -> "Console":
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=UNWRAPPED_COLUMNS)


def _silent(line: str) -> None:
    """Print nothing."""


def _agree(problems: int) -> bool:
    return True


def _ask(problems: int) -> bool:
    question = f"repair {problems} problems? Damaged objects are kept until their replacement is whole."
    return _confirmed(question, "--repair")


def _confirmed(question: str, command: str) -> bool:
    """Ask a question.

    Args:
        question: question to ask on the terminal.
        command: what asks, for the error.

    Raises:
        errors.InvalidInput: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        message = f"{command} asks before it changes anything. Pass --yes to go ahead without a terminal"
        raise errors.InvalidInput(message)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def main(argv: list[str] | None = None) -> int:
    """Run `codistill store ...` and return its exit code."""
    one_thread_each()
    commands: dict[str, Callable[..., object]] = {
        "info": info,
        "seal": seal,
        "verify": verify,
        "show": show,
        "failures": failures,
        "export": export,
        "delete": delete,
        "compact": compact,
    }
    return run(
        "codistill store",
        "Show, seal, check, repair, export, convert and delete parts of a cache of teacher features.",
        commands,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
