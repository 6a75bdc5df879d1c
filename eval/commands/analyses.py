"""`codistill eval pca`, `variance`, `correlation` and `attention`: the paper's figures, with their numbers as files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.commands.options import Caches, Datasets, File, Folder, Images, Run, Scheduler
from eval.commands.output import write_numbers
from store.common.arguments import names_of
from store.common.constraints import Device, NotNegative, Positive
from store.errors import InvalidInput, MissingFile

if TYPE_CHECKING:
    import numpy as np

    from eval.report.tables import Table

CORRELATION_SOURCES = {"log": "from the log", "probe": "on a probe batch"}


def pca(run: Run, /, *, out: File, cache: Caches = "", pictures: NotNegative = 6, device: Device = "auto") -> None:
    """Plot photographs beside the tokens of teachers, student and projections as colours (Fig. 2 of the paper).

    example: codistill eval pca demo/run --out pca.png

    Args:
        run: run directory.
        out: PNG file to write.
        cache: locations of the caches, if they have moved since the training.
        pictures: held-out views to plot, at most.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from rich.console import Console

    from eval.analyses.pca import images_of
    from eval.report.figures import plot_pictures
    from eval.runs import cached
    from eval.runs.open_run import open_run

    facts, table = cached.pictures(open_run(run, caches=names_of(cache) or (), device=device), count=pictures)
    images = images_of(table)
    plot_pictures({model: images[model] for model in facts["models"]}, facts["captions"], out=out)
    Console().print(f"figure: {out}")


def variance(
    run: Run,
    /,
    *,
    out: Folder,
    cache: Caches = "",
    datasets: Datasets = "",
    shards: NotNegative = 8,
    scheduler: Scheduler = "",
) -> None:
    """Plot the cumulative explained variance of teachers and of the student's projections (Fig. 4 of the paper).

    example: codistill eval variance demo/run --out demo/figures

    Args:
        run: run directory.
        out: folder for variance.png, variance.csv and variance.json.
        cache: locations of the caches, if they have moved since the training.
        datasets: names of the datasets to analyse.
        shards: shards to read of each dataset, evenly spread over it; 0 reads all.
        scheduler: address of a Dask scheduler whose workers can read the cache and the run.
    """
    from rich.console import Console

    from eval.report.figures import plot_variance
    from eval.report.sections.analyses import variance_table
    from eval.report.tables import to_rich
    from eval.runs import cached
    from eval.runs.open_run import open_run

    opened = open_run(run, caches=names_of(cache) or (), device="cpu")
    chosen = names_of(datasets) or []
    curves = cached.variance(opened, datasets=chosen, shards=shards, scheduler=scheduler, progress=True)
    rows = [
        (dataset, teacher, owner, kind, number + 1, share)
        for dataset, teachers in curves.items()
        for teacher, owners in teachers.items()
        for owner, by_kind in owners.items()
        for kind in ("raw", "standardised")
        for number, share in enumerate(by_kind[kind])
    ]
    columns = ("dataset", "teacher", "tokens_of", "kind", "components", "explained_variance")
    plot_variance(curves, out=out / "variance.png")
    write_numbers(out, "variance", curves, columns, rows)
    console = Console()
    console.print(to_rich(variance_table(curves, brief=True), title="Components that hold 90 % of the variance"))
    console.print(f"figure and numbers: {out}")


def correlation(
    run: Run,
    /,
    *,
    out: Folder,
    cache: Caches = "",
    window: NotNegative = 0,
    probe_steps: NotNegative = 50,
    from_step: NotNegative = 0,
    probe_rows: Positive = 64,
    device: Device = "auto",
) -> None:
    """Plot the correlation of loss updates between teachers (Fig. 5 of the paper), logged and on a fixed probe batch.

    example: codistill eval correlation demo/run --out demo/figures

    Args:
        run: run directory.
        out: folder for correlation.png, correlation.csv and correlation.json.
        cache: locations of the caches, if they have moved since the training.
        window: logged steps to correlate together; 0 cuts the log into ten windows.
        probe_steps: training steps to replay while measuring on the probe batch; 0 leaves the probe batch out.
        from_step: step of the saved checkpoint that the replay starts from; 0 starts at the beginning.
        probe_rows: training rows in the probe batch.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from rich.console import Console

    from eval.analyses.correlation import Probe, pairs
    from eval.report.figures import plot_correlation
    from eval.report.tables import to_rich
    from eval.runs import cached
    from eval.runs.open_run import open_run

    opened = open_run(run, caches=names_of(cache) or (), device=device)
    by_source = {"log": cached.logged_correlation(opened, window=window)}
    if probe_steps:
        probe = Probe(steps=probe_steps, from_step=from_step, rows=probe_rows)
        by_source["probe"] = cached.probed_correlation(opened, probe, progress=True)
    rows = [
        (source, first, data["teachers"][i], data["teachers"][j], pearson[i][j], agreement[i][j])
        for source, data in by_source.items()
        for first, pearson, agreement in zip(data["first_step"], data["pearson"], data["sign_agreement"], strict=True)
        for i, j in pairs(data["teachers"])
    ]
    columns = ("source", "first_step", "first_teacher", "second_teacher", "pearson", "sign_agreement")
    plot_correlation(by_source, out=out / "correlation.png")
    write_numbers(out, "correlation", by_source, columns, rows)
    console = Console()
    console.print(to_rich(_correlation_table(by_source), title="Correlation of loss updates"))
    console.print(f"figure and numbers: {out}")


def attention(
    run: Run,
    /,
    *,
    out: Folder,
    cache: Caches = "",
    images: Images = (),
    size: Positive = 448,
    pictures: NotNegative = 3,
    medoids: Positive = 9,
    device: Device = "auto",
) -> None:
    """Plot typical attention maps of the encoder and of every transformer projector (Fig. 9 of the paper).

    example: codistill eval attention demo/run --out demo/figures

    Args:
        run: run directory.
        out: folder for attention.png, attention.csv and attention.json.
        cache: locations of the caches, if they have moved since the training.
        images: image files to show instead of held-out views.
        size: side of the centre crop of `--images`, px; a multiple of the student's patch size.
        pictures: held-out views to show, at most.
        medoids: typical maps of each network and image.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from rich.console import Console

    from eval.report.figures import plot_attention
    from eval.runs import cached
    from eval.runs.open_run import open_run

    opened = open_run(run, caches=names_of(cache) or (), device=device)
    crops = [(path.name, _centre_crop(path, size)) for path in images]
    _, table = cached.attention(opened, count=pictures, k=medoids, images=crops)
    entries = table.to_pylist()
    plot_attention(entries, out=out / "attention.png")
    names = ("caption", "network", "medoid", "patch", "share")
    rows = [tuple(entry[name] for name in names) for entry in entries]
    without_pixels = [{key: value for key, value in entry.items() if key != "photograph"} for entry in entries]
    write_numbers(out, "attention", without_pixels, names, rows)
    Console().print(f"figure and numbers: {out}")


def _centre_crop(path: Path, size_px: int) -> "np.ndarray":
    """Read an image file and cut its centre, uint8 (size_px, size_px, 3)."""
    from extract.views.decode import decode
    from extract.views.parameters import center_view
    from extract.views.render import render
    from store.errors import DecodeError

    try:
        image = decode(path.read_bytes())
    except OSError as error:
        raise MissingFile(f"image '{path}' cannot be read ({error.strerror})") from None
    except DecodeError as error:
        raise InvalidInput(f"image '{path}': {error}") from None
    return render(image, center_view(size_px, width=image.shape[1], height=image.shape[0]), image_size=size_px)


def _correlation_table(by_source: Mapping[str, Mapping[str, Any]]) -> "Table":
    from eval.analyses.correlation import pairs
    from eval.report.tables import Column, Table, number_cell, text_cell

    columns = [Column(title="teachers")]
    columns += [Column(title=CORRELATION_SOURCES[source], numeric=True) for source in by_source]
    teachers = next(iter(by_source.values()))["teachers"]
    rows = [
        [
            text_cell(f"{teachers[i]} and {teachers[j]}"),
            *(number_cell(data["mean_pearson"][i][j]) for data in by_source.values()),
        ]
        for i, j in pairs(teachers)
    ]
    return Table(columns=columns, rows=rows)
