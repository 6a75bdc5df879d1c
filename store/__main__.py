"""`codistill store`: look at, seal, check and export a cache."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from store.commandline import run

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

    from store.cache import open as open_cache
    from store.info import inspect
    from store.info_table import render
    from store.schema import json_bytes

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
    from store.seal import seal as seal_cache

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
    from store.arguments import names_of, patch_of
    from store.cache import open as open_cache
    from store.figure import draw
    from store.show import gather

    chosen = patch_of(patch)
    exhibit = gather(open_cache(cache)[dataset], rows, teachers=names_of(teachers), images=images)
    draw(exhibit, out, patch=chosen)
    print(f"drew {len(rows)} row{'s' if len(rows) > 1 else ''} of '{dataset}' into {out}")


def main(argv: list[str] | None = None) -> int:
    """Run `codistill store ...` and return its exit code."""
    commands: dict[str, Callable[..., object]] = {"info": info, "seal": seal, "show": show}
    return run("codistill store", "Look at, seal, check and export a cache.", commands, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
