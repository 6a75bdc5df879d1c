"""`codistill eval`: measure what students learnt, picture it, and put it on one page."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from store.commandline import run as run_program

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
Caches = Annotated[str, tyro.conf.arg(metavar="CACHE[,CACHE]")]


def main(argv: list[str] | None = None) -> int:
    """Run `codistill eval ...` and return its exit code."""
    commands: dict[str, Callable[..., Any]] = {"fidelity": fidelity, "pca": pca, "report": report}
    return run_program(
        "codistill eval", "Measure what students learnt, picture it, and put it on one page.", commands, argv=argv
    )


def report(
    runs: Runs,
    /,
    *,
    out: Path,
    extraction: Path | None = None,
    cache: Caches = "",
    rows: int = 1000,
    fit_rows: int = 4096,
    pictures: int = 6,
    device: str = "auto",
) -> None:
    """Write one self-contained page about one or several runs.

    example: codistill eval report demo/run --out demo/report --extraction demo/extraction.json

    Args:
        runs: run directories.
        out: directory of index.html.
        extraction: summary that `codistill extract run --summary` wrote, for its figures.
        cache: where the caches are now; left out, where they were in training.
        rows: held-out rows of each dataset that are measured, at most.
        fit_rows: training rows that baselines are fitted on, at most.
        pictures: held-out views in the pictures.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval import commands

    commands.report(
        runs,
        out=out,
        extraction=extraction,
        caches=_split(cache),
        settings={"rows_per_dataset": rows, "fit_rows": fit_rows},
        pictures=pictures,
        device=device,
    )


def fidelity(
    runs: Runs,
    /,
    *,
    cache: Caches = "",
    rows: int = 1000,
    fit_rows: int = 4096,
    by: str = "kind",
    csv: Path | None = None,
    device: str = "auto",
) -> None:
    """Compare students with their teachers on held-out rows, and with the baselines.

    example: codistill eval fidelity demo/run

    Args:
        runs: run directories.
        cache: where the caches are now; left out, where they were in training.
        rows: held-out rows of each dataset that are measured, at most.
        fit_rows: training rows that baselines are fitted on, at most.
        by: pool rows by kind (held-out views, held-out photographs) or by dataset.
        csv: write all scores with their intervals there too.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval import commands

    settings = {"rows_per_dataset": rows, "fit_rows": fit_rows}
    commands.fidelity(runs, caches=_split(cache), settings=settings, by=by, csv=csv, device=device)


def pca(run: Run, /, *, out: Path, cache: Caches = "", pictures: int = 6, device: str = "auto") -> None:
    """Draw photographs, teachers, student and projections side by side as one PNG (Fig. 2 of the paper).

    example: codistill eval pca demo/run --out pca.png

    Args:
        run: run directory.
        out: PNG to write.
        cache: where the caches are now; left out, where they were in training.
        pictures: held-out views to draw.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval import commands

    commands.pca(run, out=out, caches=_split(cache), pictures=pictures, device=device)


def _split(cache: str) -> list[str]:
    return [location for location in cache.split(",") if location]


if __name__ == "__main__":
    raise SystemExit(main())
