"""`codistill store`: look at, seal, check and export a cache."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from store import errors
from store.common.cli import run

UNWRAPPED = 160  # columns of a table that goes into a file or a pipe
Place = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]


def info(cache: Place, /, *, identities: bool = False, json: bool = False) -> None:
    """Show what a cache holds: datasets, rows done, failed and missing per array, bytes, teachers.

    example: codistill store info demo/cache

    Args:
        cache: path or URL.
        identities: also show every teacher's identity in full.
        json: print JSON for other programs.
    """
    from dataclasses import asdict

    from rich.console import Console

    from store.cache.cache import open as open_cache
    from store.format.schema import json_bytes
    from store.inspection.info import inspect
    from store.inspection.info_table import render

    found = inspect(open_cache(cache))
    if json:
        print(json_bytes(asdict(found), indent=2).decode())
    else:
        console = Console() if sys.stdout.isatty() else Console(width=UNWRAPPED)
        render(found, console, identities=identities)


def seal(cache: Place, /) -> None:
    """Collect what the shards say into manifests, status and statistics; repeat it whenever shards were added.

    example: codistill store seal demo/cache

    Args:
        cache: path or URL.
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
    cache: Place,
    dataset: Name,
    rows: Annotated[tuple[int, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ROW...")],
    /,
    *,
    out: Path,
    teachers: str = "",
    patch: str = "",
    images: Path | None = None,
) -> None:
    """Draw rows: photograph, stored pixels, and every teacher's principal components, similarities and norms.

    example: codistill store show demo/cache people 3 17 40 --out rows.png

    Args:
        cache: path or URL.
        dataset: name.
        rows: numbers of the rows.
        out: PNG (or PDF, SVG, JPEG) to write.
        teachers: names, separated by commas; all if left out.
        patch: ROW,COL of the patch that similarities are to; the central one if left out.
        images: folder that the dataset's image paths are relative to, to show the photographs.
    """
    from store.cache.cache import open as open_cache
    from store.common.cli import names_of, patch_of
    from store.inspection.figure import draw
    from store.inspection.row_view import gather

    chosen = patch_of(patch)
    exhibit = gather(open_cache(cache)[dataset], rows, teachers=names_of(teachers), images=images)
    draw(exhibit, out, patch=chosen)
    print(f"drew {len(rows)} row{'s' if len(rows) > 1 else ''} of '{dataset}' into {out}")


def failures(cache: Place, /, *, dataset: str = "", array: str = "", out: Path | None = None, limit: int = 50) -> None:
    """List the rows that failed, with image and reason; tokens that only lack their pixels are left out.

    example: codistill store failures demo/cache --dataset people --out failed.csv

    Args:
        cache: path or URL.
        dataset: names, separated by commas; all if left out.
        array: pixels or teachers, separated by commas; all if left out.
        out: CSV or Parquet file for the whole list.
        limit: lines to show here.
    """
    from rich.console import Console

    from store.cache.cache import open as open_cache
    from store.common.cli import names_of
    from store.inspection.failures import failures as find_failures
    from store.inspection.failures import render, write_table

    table = find_failures(open_cache(cache), datasets=names_of(dataset), arrays=names_of(array))
    if out is not None:
        write_table(table, out)
        print(f"wrote {table.num_rows:,} rows to {out}")
    else:
        render(table, Console() if sys.stdout.isatty() else Console(width=UNWRAPPED), limit=limit)


def export(
    cache: Place,
    dataset: Name,
    rows: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ROW|FIRST:END...")],
    /,
    *,
    out: Path,
    arrays: str = "",
    skip: bool = False,
    overwrite: bool = False,
) -> None:
    """Write rows into one file for other programs: .npz, .safetensors or .parquet, by its name.

    example: codistill store export demo/cache people 0:64 100 --arrays pixels,lite0 --out rows.npz

    Args:
        cache: path or URL.
        dataset: name.
        rows: numbers, and ranges without their end, as in Python; `:` is all.
        out: file to write.
        arrays: pixels and teachers, separated by commas; all if left out.
        skip: leave rows out that failed or are missing, rather than refuse.
        overwrite: replace an existing file.
    """
    from store.cache.cache import open as open_cache
    from store.common.cli import names_of, rows_of
    from store.format.schema import PIXELS
    from store.inspection.export import export as export_rows

    opened = open_cache(cache)[dataset]
    names = names_of(arrays) or [PIXELS, *opened.teachers]
    count = export_rows(opened, rows_of(rows, rows=opened.rows), names, out, skip=skip, overwrite=overwrite)
    print(f"wrote {count:,} rows of {', '.join(names)} to {out}")


def verify(
    cache: Place,
    /,
    *,
    quick: bool = False,
    repair: bool = False,
    yes: bool = False,
    json: bool = False,
    catalogue: Path | None = None,
    device: str = "auto",
) -> int:
    """Check every checksum, trailer, index, digest and sealed table; exit code 1 if anything is wrong.

    example: codistill store verify demo/cache --repair --catalogue demo/catalogue.toml

    Args:
        cache: path or URL.
        quick: read trailers, not rows.
        repair: rebuild damaged shards from their good rows, and make the others anew.
        yes: repair without asking.
        json: print JSON for other programs.
        catalogue: says where images and weights are, for rows that must be made anew.
        device: where teachers run for a repair.
    """
    from store.format.schema import json_bytes
    from store.verify.report import advice, check, check_and_repair

    say = _silent if json else print
    progress = sys.stderr.isatty()
    if repair:
        confirm = _agreed if yes else _ask
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


def _silent(line: str) -> None:
    """Say nothing."""


def _agreed(problems: int) -> bool:
    return True


def _ask(problems: int) -> bool:
    if not sys.stdin.isatty():
        raise errors.InvalidInput("--repair asks before it changes anything. Pass --yes to go ahead without a terminal")
    print(
        f"repair {problems} problems? Damaged objects are kept until their replacement is whole. [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def main(argv: list[str] | None = None) -> int:
    """Run `codistill store ...` and return its exit code."""
    commands: dict[str, Callable[..., object]] = {
        "info": info,
        "seal": seal,
        "verify": verify,
        "show": show,
        "failures": failures,
        "export": export,
    }
    return run("codistill store", "Look at, seal, check and export a cache.", commands, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
