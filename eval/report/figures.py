"""Figures as PNG files, for papers and slides; they show the same curves and grids as the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.analyses.correlation import pairs
from eval.report.sections.analyses import attention_grids, variance_lines

DPI = 150
CORRELATION_LABELS = {"log": "training log", "probe": "probe batch"}


def plot_pictures(images: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], *, out: Path) -> None:
    """Plot a grid of pictures: one column a model, one row a view.

    Args:
        images: model -> uint8 (H, W, 3), one for each caption; maps of patches are enlarged without smoothing.
        captions: captions of the rows.
        out: PNG file to write.
    """
    figure = _new_figure(width=1.35 * len(images) + 0.2, height=1.5 * len(captions) + 0.3)
    axes = figure.subplots(len(captions), len(images), squeeze=False)
    for column, (model, pictures) in enumerate(images.items()):
        axes[0][column].set_title(model.replace(" to ", " to\n"), fontsize=7)
        for row, picture in enumerate(pictures):
            axes[row][column].imshow(picture, interpolation="nearest")
            axes[row][column].set_axis_off()
    for row, caption in enumerate(captions):
        axes[row][0].text(0, -0.04, caption, fontsize=5, transform=axes[row][0].transAxes, va="top")
    _save(figure, out)


def plot_variance(by_dataset: Mapping[str, Mapping[str, Any]], *, out: Path) -> None:
    """Plot cumulative explained variance (Fig. 4): one panel a dataset, teachers solid, student projections dashed.

    Args:
        by_dataset: curves as `eval.analyses.variance.explained_variance` gives them.
        out: PNG file to write.
    """
    columns = min(3, len(by_dataset))
    rows = -(-len(by_dataset) // max(columns, 1))
    figure = _new_figure(width=4.0 * columns, height=3.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, (dataset, teachers) in zip(panels, by_dataset.items(), strict=False):
        for line in variance_lines(teachers):
            style = "--" if line.dashed else "-"
            axes.plot(line.x, line.y, style, color=f"C{line.colour}", label=line.label, linewidth=1.4)
        axes.set(title=dataset, xscale="log", xlabel="components", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    for axes in panels[len(by_dataset) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("explained variance")
    panels[0].legend(fontsize="small")
    _save(figure, out)


def plot_correlation(by_source: Mapping[str, Mapping[str, Any]], *, out: Path) -> None:
    """Plot the correlation of loss updates by pair of teachers (Fig. 5).

    Args:
        by_source: `log` and perhaps `probe` -> correlation as `eval.analyses.correlation.as_json` gives it.
        out: PNG file to write.
    """
    teachers = next(iter(by_source.values()))["teachers"]
    names = [f"{teachers[i]}\n{teachers[j]}" for i, j in pairs(teachers)]
    figure = _new_figure(width=1.6 + 1.3 * len(names), height=3.2)
    axes = figure.subplots()
    width = 0.8 / len(by_source)
    for number, (source, data) in enumerate(by_source.items()):
        values = [data["mean_pearson"][i][j] for i, j in pairs(teachers)]
        positions = np.arange(len(names)) + width * (number - (len(by_source) - 1) / 2)
        heights = [np.nan if value is None else value for value in values]
        axes.bar(positions, heights, width, label=CORRELATION_LABELS[source])
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(ylabel="Pearson correlation", ylim=(-1, 1))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")
    _save(figure, out)


def plot_attention(entries: Sequence[Mapping[str, Any]], *, out: Path) -> None:
    """Plot typical attention maps (Fig. 9): for each image one row a network, the image first.

    Args:
        entries: rows of a table with schema `eval.analyses.attention.MAPS`.
        out: PNG file to write.
    """
    rows: list[tuple[str, list[np.ndarray]]] = []
    for image in sorted({int(entry["image"]) for entry in entries}):
        photograph, grids = attention_grids([entry for entry in entries if entry["image"] == image])
        rows += [(network, [photograph, *maps]) for network, maps in grids.items()]
    columns = max(len(pictures) for _, pictures in rows)
    figure = _new_figure(width=1.1 * columns, height=1.25 * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for panel_row, (network, pictures) in zip(panels, rows, strict=True):
        panel_row[0].set_title(network, fontsize=6, loc="left")
        for axes in panel_row:
            axes.set_axis_off()
        for axes, picture in zip(panel_row, pictures, strict=False):
            axes.imshow(picture, cmap="magma", interpolation="nearest")
    _save(figure, out)


def _new_figure(*, width: float, height: float) -> Any:
    """Make a matplotlib figure, sizes in inches, that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
