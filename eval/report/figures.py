"""Figures as PNG files, for papers and slides; the page draws its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DPI = 150


def draw_pictures(images: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], *, out: Path) -> None:
    """A grid of pictures: one column a model, one row a view.

    Args:
        images: model -> uint8 (H, W, 3), one for each caption; maps of patches are enlarged without smoothing.
        captions: of the rows.
        out: PNG to write.
    """
    figure = new_figure(width=1.35 * len(images) + 0.2, height=1.5 * len(captions) + 0.3)
    axes = figure.subplots(len(captions), len(images), squeeze=False)
    for column, (model, pictures) in enumerate(images.items()):
        axes[0][column].set_title(model.replace(" to ", " to\n"), fontsize=7)
        for row, picture in enumerate(pictures):
            axes[row][column].imshow(picture, interpolation="nearest")
            axes[row][column].set_axis_off()
    for row, caption in enumerate(captions):
        axes[row][0].text(0, -0.04, caption, fontsize=5, transform=axes[row][0].transAxes, va="top")
    save(figure, out)


def new_figure(*, width: float, height: float) -> Any:
    """A matplotlib figure of that size in inches that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, out: Path) -> None:
    """Write a figure, making its folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)


def draw_variance(found: Mapping[str, Mapping[str, Any]], *, out: Path) -> None:
    """Cumulative explained variance (Fig. 4): one panel a dataset; teachers solid, the student's projections dashed.

    Args:
        found: as `eval.analyses.variance_of_cache.explained_variance` gives it.
        out: PNG to write.
    """
    columns = min(3, len(found))
    lines = -(-len(found) // max(columns, 1))
    figure = new_figure(width=4.0 * columns, height=3.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, (dataset, teachers) in zip(panels, found.items(), strict=False):
        for number, (teacher, owners) in enumerate(sorted(teachers.items())):
            for owner, curves in owners.items():
                label, style = (teacher, "-") if owner == "teacher" else (f"{teacher}, projected", "--")
                x = np.arange(1, len(curves["raw"]) + 1)
                axes.plot(x, curves["raw"], style, color=f"C{number}", label=label, linewidth=1.4)
        axes.set(title=dataset, xscale="log", xlabel="components", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("explained variance")
    panels[0].legend(fontsize="small")
    save(figure, out)


def draw_correlation(found: Mapping[str, Mapping[str, Any]], *, out: Path) -> None:
    """Correlation of loss updates by pair of teachers (Fig. 5).

    Args:
        found: "log" and perhaps "probe" -> as `eval.analyses.correlation_of_run.as_json` gives it.
        out: PNG to write.
    """
    from eval.analyses.correlation import pairs

    teachers = next(iter(found.values()))["teachers"]
    names = [f"{teachers[i]}\n{teachers[j]}" for i, j in pairs(teachers)]
    figure = new_figure(width=1.6 + 1.3 * len(names), height=3.2)
    axes = figure.subplots()
    width = 0.8 / len(found)
    for number, (source, data) in enumerate(found.items()):
        values = [data["mean_pearson"][i][j] for i, j in pairs(teachers)]
        at = np.arange(len(names)) + width * (number - (len(found) - 1) / 2)
        label = "training log" if source == "log" else "probe batch"
        axes.bar(at, [np.nan if value is None else value for value in values], width, label=label)
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(ylabel="Pearson correlation", ylim=(-1, 1))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, out)


def draw_attention(entries: Sequence[Mapping[str, Any]], *, out: Path) -> None:
    """Typical attention maps (Fig. 9): for each photograph one line a network, the photograph first.

    Args:
        entries: rows of `eval.analyses.attention.MAPS`.
        out: PNG to write.
    """
    from eval.report.sections.analyses import attention_grids

    lines: list[tuple[str, list[np.ndarray]]] = []
    for image in sorted({int(entry["image"]) for entry in entries}):
        photograph, grids = attention_grids([entry for entry in entries if entry["image"] == image])
        lines += [(network, [photograph, *maps]) for network, maps in grids.items()]
    columns = max(len(pictures) for _, pictures in lines)
    figure = new_figure(width=1.1 * columns, height=1.25 * len(lines))
    panels = figure.subplots(len(lines), columns, squeeze=False)
    for row, (network, pictures) in zip(panels, lines, strict=True):
        row[0].set_title(network, fontsize=6, loc="left")
        for axes in row:
            axes.set_axis_off()
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture, cmap="magma", interpolation="nearest")
    save(figure, out)
