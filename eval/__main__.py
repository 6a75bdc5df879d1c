"""`codistill eval`: measure what students learnt, picture it, and put it on one page."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.commands.probes import depth, knn, linear, segmentation
from eval.commands.tasks import human_mesh, multiview_depth, multiview_pose, relocalisation
from store.common.cli import run as run_program

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
Caches = Annotated[str, tyro.conf.arg(metavar="CACHE[,CACHE]")]
Names = Annotated[str, tyro.conf.arg(metavar="A,B")]
Folder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Images = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE")]


def main(argv: list[str] | None = None) -> int:
    """Run `codistill eval ...` and return its exit code."""
    commands: dict[str, Callable[..., Any]] = {
        "report": report,
        "fidelity": fidelity,
        "pca": pca,
        "variance": variance,
        "correlation": correlation,
        "attention": attention,
        "knn": knn,
        "linear": linear,
        "segmentation": segmentation,
        "depth": depth,
        "relocalisation": relocalisation,
        "human-mesh": human_mesh,
        "multiview-depth": multiview_depth,
        "multiview-pose": multiview_pose,
    }
    return run_program(
        "codistill eval", "Measure what students learnt, picture it, and put it on one page.", commands, argv=argv
    )


def report(
    runs: Runs,
    /,
    *,
    out: Folder,
    extraction: File = None,
    cache: Caches = "",
    encoders: File = None,
    rows: int = 1000,
    fit_rows: int = 4096,
    pictures: int = 6,
    baseline: str = "",
    device: str = "auto",
) -> None:
    """Write one self-contained page about one or several runs, or about a sweep.

    example: codistill eval report demo/run --out demo/report --extraction demo/extraction.json

    Args:
        runs: run directories, or those of sweeps, which stand for their finished runs.
        out: folder of index.html.
        extraction: summary that `codistill extract run --summary` wrote, for its figures.
        cache: where the caches are now; left out, where they were in training.
        encoders: TOML of foreign encoders to compare with, read through a linear map.
        rows: held-out rows of each dataset that are measured, at most.
        fit_rows: training rows that baselines are fitted on, at most.
        pictures: held-out views in the pictures.
        baseline: the row or run that others are compared with; left out, that of the sweep.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval.commands import report as bodies

    bodies.report(
        runs,
        out=out,
        extraction=extraction,
        caches=_split(cache),
        encoders=encoders,
        settings={"rows_per_dataset": rows, "fit_rows": fit_rows},
        pictures=pictures,
        baseline=baseline,
        device=device,
    )


def fidelity(
    runs: Runs,
    /,
    *,
    cache: Caches = "",
    encoders: File = None,
    rows: int = 1000,
    fit_rows: int = 4096,
    by: str = "kind",
    csv: File = None,
    device: str = "auto",
) -> None:
    """Compare students with their teachers on held-out rows, and with the baselines.

    example: codistill eval fidelity demo/run

    Args:
        runs: run directories, or those of sweeps, which stand for their finished runs.
        cache: where the caches are now; left out, where they were in training.
        encoders: TOML of foreign encoders to compare with, read through a linear map.
        rows: held-out rows of each dataset that are measured, at most.
        fit_rows: training rows that baselines are fitted on, at most.
        by: pool rows by kind (held-out views, held-out photographs) or by dataset.
        csv: write all scores with their intervals there too.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval.commands import report as bodies

    settings = {"rows_per_dataset": rows, "fit_rows": fit_rows}
    bodies.fidelity(runs, caches=_split(cache), encoders=encoders, settings=settings, by=by, table=csv, device=device)


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
    from eval.commands import report as bodies

    bodies.pca(run, out=out, caches=_split(cache), pictures=pictures, device=device)


def variance(
    run: Run, /, *, out: Folder, cache: Caches = "", datasets: Names = "", shards: int = 8, scheduler: str = ""
) -> None:
    """Draw how compact the features of teachers and projections are (Fig. 4): cumulative explained variance.

    example: codistill eval variance demo/run --out demo/figures

    Args:
        run: run directory.
        out: folder of variance.png, .csv and .json.
        cache: where the caches are now; left out, where they were in training.
        datasets: to look at; left out, all held-out ones.
        shards: of each dataset, evenly spread; 0 takes all.
        scheduler: address of a Dask scheduler whose workers see cache and run; left out, threads here.
    """
    from eval.commands import report as bodies

    bodies.variance(run, out=out, caches=_split(cache), datasets=_split(datasets), shards=shards, scheduler=scheduler)


def correlation(
    run: Run,
    /,
    *,
    out: Folder,
    cache: Caches = "",
    window: int = 0,
    probe_steps: int = 50,
    from_step: int = 0,
    probe_rows: int = 64,
    device: str = "auto",
) -> None:
    """Correlate loss updates of teachers (Fig. 5), from the log and on a fixed probe batch.

    example: codistill eval correlation demo/run --out demo/figures

    Args:
        run: run directory.
        out: folder of correlation.png, .csv and .json.
        cache: where the caches are now; left out, where they were in training.
        window: logged steps that are correlated together; 0 cuts the log into ten windows.
        probe_steps: steps of the training that are replayed for the probe batch; 0 leaves it out.
        from_step: the saved checkpoint they start from; 0 is the beginning.
        probe_rows: training rows of the probe batch.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval.commands import report as bodies

    probe = {"steps": probe_steps, "from_step": from_step, "rows": probe_rows}
    bodies.correlation(run, out=out, caches=_split(cache), window=window, probe=probe, device=device)


def attention(
    run: Run,
    /,
    *,
    out: Folder,
    cache: Caches = "",
    images: Images = (),
    size: int = 448,
    pictures: int = 3,
    medoids: int = 9,
    device: str = "auto",
) -> None:
    """Draw typical attention maps of the encoder and of every transformer projector (Fig. 9).

    example: codistill eval attention demo/run --out demo/figures

    Args:
        run: run directory.
        out: folder of attention.png, .csv and .json.
        cache: where the caches are now; left out, where they were in training.
        images: photographs to look at instead of held-out views.
        size: side of the centre crop of `images`, px; a multiple of the patch.
        pictures: held-out views to look at.
        medoids: maps of each network and photograph.
        device: to compute on; auto takes a GPU if there is one.
    """
    from eval.commands import report as bodies

    bodies.attention(
        run,
        out=out,
        caches=_split(cache),
        images=images,
        size=size,
        pictures=pictures,
        medoids=medoids,
        device=device,
    )


def _split(names: str) -> list[str]:
    return [name for name in names.split(",") if name]


if __name__ == "__main__":
    raise SystemExit(main())
