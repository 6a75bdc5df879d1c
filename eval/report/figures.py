"""Figures as PNG files, for papers and slides; they show the same curves and grids as the page."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eval.analyses.correlation import pairs
from eval.report.sections.analyses import ATTENTION_LEGEND, COLOURS, attention_grids, heat, variance_lines

DPI = 150
FONT_POINTS = 8.5
LINE_INCHES, SPACE_INCHES = 0.17, 0.07  # of text of that size
POINTS_PER_INCH = 72
CELL_INCHES, GAP_INCHES, MARGIN_INCHES, BAR_INCHES = 1.25, 0.1, 0.1, 2.0
PITCH_INCHES = CELL_INCHES + GAP_INCHES
LEAST_WIDTH_INCHES = 5.0
PICTURES_LEGEND = (
    "Patch tokens as colours: the first three principal components are red, green and blue, one basis for each "
    "network. A projection is in the basis of its teacher: the more the two look alike, the more the student has "
    "learnt."
)
CORRELATION_LABELS = {"log": "training log", "probe": "probe batch"}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture of a grid: uint8 pixels (H, W, 3), text below, and the (row, col) of a pixel to outline."""

    pixels: np.ndarray
    below: str = ""
    outline: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A row of pictures with a caption above it."""

    caption: str
    panels: Sequence[Panel]


def plot_pictures(images: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], *, out: Path) -> None:
    """Plot a grid of pictures: one column a model, one row a view.

    Args:
        images: model -> uint8 (H, W, 3), one for each caption; maps of patches are enlarged without smoothing.
        captions: captions of the rows.
        out: PNG file to write.
    """
    rows = [
        GridRow(caption=caption, panels=[Panel(pixels=pictures[number]) for pictures in images.values()])
        for number, caption in enumerate(captions)
    ]
    plot_grid(rows, headings=list(images), footer=PICTURES_LEGEND, out=out)


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
    """Plot typical attention maps (Fig. 9) with a legend: for each image one row a network, the image first.

    Args:
        entries: rows of a table with schema `eval.analyses.attention.MAPS`.
        out: PNG file to write.
    """
    rows: list[GridRow] = []
    for image in sorted({int(entry["image"]) for entry in entries}):
        of_image = [entry for entry in entries if entry["image"] == image]
        photograph, grids = attention_grids(of_image)
        for network, maps in grids.items():
            panels = [
                Panel(pixels=heat(shown.values), below=f"{100 * shown.share:.0f} %", outline=shown.patch)
                for shown in maps
            ]
            caption = f"{of_image[0]['caption']}: {network}"
            rows.append(GridRow(caption=caption, panels=[Panel(pixels=photograph), *panels]))
    headings = ["photograph", *(f"map {number}" for number in range(1, max(len(row.panels) for row in rows)))]
    legend = f"{ATTENTION_LEGEND} Below it the share of patches that it stands for. Heads are averaged."
    plot_grid(rows, headings=headings, footer=legend, colours=("least attention", "most"), out=out)


def plot_grid(
    rows: Sequence[GridRow],
    *,
    headings: Sequence[str],
    footer: str,
    out: Path,
    colours: tuple[str, str] | None = None,
) -> None:
    """Plot a grid of pictures with headings above, a caption above each row, and a legend at the bottom.

    Args:
        rows: rows of the grid.
        headings: heading of each column; the longest row has as many panels.
        footer: text of the legend.
        out: PNG file to write.
        colours: names of the least and the greatest value, for a colour bar; None for no bar.
    """
    width = max(len(headings) * PITCH_INCHES + 2 * MARGIN_INCHES, LEAST_WIDTH_INCHES)
    captions = [_wrapped(row.caption, width - 2 * MARGIN_INCHES) for row in rows]
    legend = _wrapped(footer, width - 2 * MARGIN_INCHES)
    below = LINE_INCHES if any(panel.below for row in rows for panel in row.panels) else 0.0
    titles = [_wrapped(title, CELL_INCHES, weight="bold") for title in headings]
    heading = LINE_INCHES * max(map(len, titles))
    bottom = LINE_INCHES * (len(legend) + (2 if colours else 0)) + 2 * MARGIN_INCHES
    row_heights = [LINE_INCHES * len(lines) + PITCH_INCHES + below for lines in captions]
    height = MARGIN_INCHES + heading + sum(row_heights) + bottom
    figure = _new_figure(width=width, height=height, layout=None)

    def text(x: float, y: float, content: str, **options: Any) -> None:
        figure.text(x / width, 1 - y / height, content, fontsize=FONT_POINTS, parse_math=False, **options)

    for column, title in enumerate(titles):
        middle = MARGIN_INCHES + PITCH_INCHES * column + CELL_INCHES / 2
        text(middle, MARGIN_INCHES + heading, "\n".join(title), ha="center", va="bottom", weight="bold")
    top = MARGIN_INCHES + heading
    for row, lines, row_height in zip(rows, captions, row_heights, strict=True):
        text(MARGIN_INCHES, top + LINE_INCHES * len(lines), "\n".join(lines), va="bottom", color="0.25")
        start = top + LINE_INCHES * len(lines) + GAP_INCHES / 2
        for column, panel in enumerate(row.panels):
            left = MARGIN_INCHES + PITCH_INCHES * column
            frame = (left / width, 1 - (start + CELL_INCHES) / height, CELL_INCHES / width, CELL_INCHES / height)
            _plot_panel(figure.add_axes(frame), panel)
            if panel.below:
                text(left + CELL_INCHES / 2, start + CELL_INCHES + LINE_INCHES, panel.below, ha="center", va="bottom")
        top += row_height
    text(MARGIN_INCHES, height - bottom + MARGIN_INCHES, "\n".join(legend), va="top", color="0.25")
    if colours:
        _plot_colours(figure, colours, size=(width, height))
    _save(figure, out)


def _plot_panel(axes: Any, panel: Panel) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(panel.pixels, interpolation="nearest")
    axes.set_axis_off()
    if panel.outline is not None:
        row, col = panel.outline
        axes.add_patch(Rectangle((col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="cyan", linewidth=1.4))


def _plot_colours(figure: Any, ends: tuple[str, str], *, size: tuple[float, float]) -> None:
    """Plot a colour bar into the lower left corner, its ends named beside it; `size` is (width, height) in inches."""
    width, height = size
    y, left = MARGIN_INCHES, MARGIN_INCHES + _width_inches(ends[0]) + SPACE_INCHES
    bar = figure.add_axes((left / width, y / height, BAR_INCHES / width, 0.8 * LINE_INCHES / height))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS, aspect="auto")
    bar.set_axis_off()
    for x, name in ((MARGIN_INCHES, ends[0]), (left + BAR_INCHES + SPACE_INCHES, ends[1])):
        figure.text(x / width, y / height, name, fontsize=FONT_POINTS, va="bottom", color="0.25")


def _wrapped(text: str, width_inches: float, *, weight: str = "normal") -> list[str]:
    """Break a text into lines that are not wider."""
    letters = max(len(text), 1)
    while True:
        lines = textwrap.wrap(text, letters) or [""]
        if letters == 1 or max(_width_inches(line, weight=weight) for line in lines) <= width_inches:
            return lines
        letters = min(letters - 1, round(0.95 * letters))


def _width_inches(text: str, *, weight: str = "normal") -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=FONT_POINTS, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / POINTS_PER_INCH


def _new_figure(*, width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    """Make a matplotlib figure, sizes in inches, that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
