"""Figure of `codistill store show`: for each row photograph, pixels, and three pictures of every teacher's tokens."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.common import atomic
from store.inspection import legend, token_images
from store.inspection.legend import Entry
from store.inspection.row_view import INSPECT_EXTRA, Photograph, RowsToShow, ShownRow, Tokens
from store.inspection.scales import TeacherScale, scales_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")
KINDS = ("principal components", "similarity", "norm")
DPI = 130
SCREEN_INCHES = (1920 / DPI, 1080 / DPI)  # width, height
PANEL_INCHES = 1.75
LEAST_PANEL_INCHES = 0.95  # smaller ones have no room for their titles: then one row fills a page
PHOTOGRAPH_PANELS = 1.55  # width of the photograph of a single row, in panels
BETWEEN_ROWS_INCHES = 0.42
BETWEEN_KINDS_INCHES = 0.25
TITLES_INCHES = 0.62  # above several rows
HEADING_INCHES = 0.95  # above a single row
HEADING_CHARACTER_INCHES = 0.09  # bold
WRAP_CHARACTERS = 26


def check_output(out: Path) -> None:
    """Refuse a file that no picture can be written to.

    Raises:
        errors.InvalidInput: another suffix.
        errors.MissingFile: the folder of `out` does not exist.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise errors.InvalidInput(f"cannot draw into '{out}': its name must end in one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise errors.MissingFile(f"cannot draw into '{out}': folder '{out.parent}' does not exist")


def rows_that_fit(shown: RowsToShow, lines: Sequence[Entry]) -> int:
    """Return how many rows like those of `shown` fit a screen, with a legend.

    Args:
        shown: some of the rows, with the teachers to be shown.
        lines: legend.
    """
    panel = _panel_inches(_columns(shown))
    if panel < LEAST_PANEL_INCHES:
        return 1
    rest = SCREEN_INCHES[1] - TITLES_INCHES - legend.height_inches(lines, width_inches=_width(_columns(shown)))
    return max(1, int(rest / (panel + BETWEEN_ROWS_INCHES)))


def plot_rows(
    shown: RowsToShow,
    out: Path,
    *,
    scales: Mapping[str, TeacherScale] | None = None,
    chosen_rows: int | None = None,
    patch: tuple[int, int] | None = None,
    tall: bool | None = None,
    title: str = "",
) -> None:
    """Plot rows into a file.

    Args:
        shown: rows, from `store.inspection.row_view.gather`.
        out: picture file; its suffix chooses the format.
        scales: scales of the teachers; None finds them on these rows.
        chosen_rows: rows of all pages with these scales; None means these rows.
        patch: (row, col) that similarities are to, for scales found here; None takes the central one.
        tall: plot a single row with its kinds of pictures below each other; None does so if there is one row.
        title: text above the rows, such as the number of the page.

    Raises:
        errors.InvalidInput: another suffix, or a patch outside a teacher's grid.
        errors.MissingFile: the folder of `out` does not exist.
        errors.MissingExtra: matplotlib is not installed.
    """
    check_output(out)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.MissingExtra(f"pictures need matplotlib. Run: {INSPECT_EXTRA}") from error
    used = scales_of(_patches(shown), shown.teachers, patch=patch) if scales is None else scales
    lines = legend.entries(
        used, chosen_rows=chosen_rows or len(shown.rows), photograph=_has_photograph(shown), notes=_notes(shown)
    )
    pictures = Figure(dpi=DPI, facecolor="white")
    if (len(shown.rows) == 1) if tall is None else tall:
        _plot_one_row(pictures, shown, used, lines=lines, title=title)
    else:
        _plot_several_rows(pictures, shown, used, lines=lines, title=title)
    legend.draw(pictures, lines)
    with atomic.replacing(out) as partial:
        pictures.savefig(partial)


def _patches(shown: RowsToShow) -> dict[str, list[npt.NDArray[Any]]]:
    return {
        name: [tokens.patches for row in shown.rows if isinstance(tokens := row.tokens[name], Tokens)]
        for name in shown.teachers
    }


def _has_photograph(shown: RowsToShow) -> bool:
    return any(isinstance(row.photograph, Photograph) for row in shown.rows)


def _notes(shown: RowsToShow) -> list[str]:
    """Return why there is no photograph, if there is none."""
    return [] if _has_photograph(shown) else sorted({str(row.photograph) for row in shown.rows})


def _columns(shown: RowsToShow) -> int:
    return 1 + _has_photograph(shown) + len(KINDS) * len(shown.teachers)


def _panel_inches(columns: int) -> float:
    """Return the side of a panel beside others."""
    return min(PANEL_INCHES, (SCREEN_INCHES[0] - 0.4) / (1.04 * columns))


def _width(columns: int) -> float:
    return columns * _panel_inches(columns) * 1.04 + 0.4


def _plot_one_row(
    figure: "Figure", shown: RowsToShow, scales: Mapping[str, TeacherScale], *, lines: Sequence[Entry], title: str
) -> None:
    """Plot one row: photograph and pixels on the left, teachers side by side, a line for each kind of picture."""
    (row,) = shown.rows
    columns = len(shown.teachers)
    kinds = len(KINDS) if columns else 1
    panel = min(PANEL_INCHES, (SCREEN_INCHES[0] - 0.5) / (PHOTOGRAPH_PANELS + columns))
    width = (PHOTOGRAPH_PANELS + columns) * panel + 0.5
    below = legend.height_inches(lines, width_inches=width) + 0.1
    panel_height = min(panel, (SCREEN_INCHES[1] - HEADING_INCHES - below) / kinds - BETWEEN_KINDS_INCHES)
    height = kinds * (panel_height + BETWEEN_KINDS_INCHES) + HEADING_INCHES + below
    figure.set_size_inches(width, height)
    grid = figure.add_gridspec(
        1,
        1 + columns,
        width_ratios=[PHOTOGRAPH_PANELS, *[1.0] * columns],
        left=0.02,
        right=0.99,
        top=1 - HEADING_INCHES / height,
        bottom=below / height,
        wspace=0.08,
    )
    has_photograph = isinstance(row.photograph, Photograph)
    left = grid[0].subgridspec(2 if has_photograph else 1, 1, hspace=0.1)
    if has_photograph:
        _plot_photograph(figure.add_subplot(left[0]), row, title=True)
    _plot_pixels(figure.add_subplot(left[-1]), row, scales, title=True)
    for column, name in enumerate(shown.teachers):
        cells = grid[1 + column].subgridspec(len(KINDS), 1, hspace=0.2)
        for line, kind in enumerate(KINDS):
            axes = figure.add_subplot(cells[line])
            text = f"{_teacher_title(shown, name)}\n{kind}" if line == 0 else kind
            _plot_tokens(axes, row.tokens[name], scales.get(name), kind=kind, title=text)
    characters = int(0.97 * width / HEADING_CHARACTER_INCHES)
    texts = filter(None, [*_heading(shown, row), title])
    heading = "\n".join(line for text in texts for line in textwrap.wrap(text, characters))
    figure.text(0.02, 1 - 0.08 / height, heading, va="top", fontsize=9, weight="bold", parse_math=False)


def _plot_several_rows(
    figure: "Figure", shown: RowsToShow, scales: Mapping[str, TeacherScale], *, lines: Sequence[Entry], title: str
) -> None:
    """Plot several rows: a line for each, the teachers side by side within each kind of picture."""
    has_photograph, teachers = _has_photograph(shown), list(shown.teachers)
    before, columns = 1 + has_photograph, _columns(shown)
    panel, width = _panel_inches(columns), _width(columns)
    below = legend.height_inches(lines, width_inches=width) + BETWEEN_ROWS_INCHES
    height = TITLES_INCHES + len(shown.rows) * (panel + BETWEEN_ROWS_INCHES) - BETWEEN_ROWS_INCHES + below
    figure.set_size_inches(width, height)
    space = {"wspace": 0.05, "hspace": BETWEEN_ROWS_INCHES / panel}
    edges = {"left": 0.02, "right": 0.99, "top": 1 - TITLES_INCHES / height, "bottom": below / height}
    grid = figure.add_gridspec(len(shown.rows), columns, **edges, **space)
    points = 8.0 * min(1.0, panel / 1.2)
    for line, row in enumerate(shown.rows):
        first = line == 0
        if has_photograph:
            _plot_photograph(figure.add_subplot(grid[line, 0]), row, title=first)
        axes = figure.add_subplot(grid[line, before - 1])
        _plot_pixels(axes, row, scales, title=first)
        edge = grid[line, 0].get_position(figure)
        figure.text(edge.x0, edge.y0 - 0.04 / height, _caption(row), va="top", fontsize=7.5, parse_math=False)
        for number, kind in enumerate(KINDS):
            for column, name in enumerate(teachers):
                cell = grid[line, before + number * len(teachers) + column]
                text = f"{_teacher_title(shown, name, between=chr(10))}\n{kind}" if first else ""
                panel_axes = figure.add_subplot(cell)
                _plot_tokens(panel_axes, row.tokens[name], scales.get(name), kind=kind, title=text, points=points)
    heading = " · ".join(filter(None, [shown.dataset.name, title]))
    figure.text(0.02, 1 - 0.05 / height, heading, va="top", fontsize=8, weight="bold", parse_math=False)


def _plot_photograph(axes: "Axes", row: ShownRow, *, title: bool) -> None:
    from matplotlib.patches import Rectangle

    photograph = row.photograph
    if isinstance(photograph, str):
        _plot_message(axes, photograph)
        return
    axes.imshow(photograph.pixels, extent=(0, photograph.width, photograph.height, 0))
    top, left, height, width = photograph.crop
    for colour, line_width in (("black", 3.2), ("yellow", 1.6)):
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line_width))
    _hide_axes(axes, "photograph, crop" if title else "")


def _plot_pixels(axes: "Axes", row: ShownRow, scales: Mapping[str, TeacherScale], *, title: bool) -> None:
    if isinstance(row.pixels, str):
        _plot_message(axes, row.pixels, "pixels" if title else "")
        return
    axes.imshow(row.pixels)
    for name, tokens in row.tokens.items():
        if isinstance(tokens, Tokens):
            height, width = row.pixels.shape[:2]
            _outline(axes, scales[name].patch, cell=(height / tokens.patches.shape[0], width / tokens.patches.shape[1]))
            break
    _hide_axes(axes, "pixels (as stored)" if title else "")


def _plot_tokens(
    axes: "Axes", tokens: Tokens | str, scale: TeacherScale | None, *, kind: str, title: str, points: float = 8.0
) -> None:
    if isinstance(tokens, str) or scale is None:
        _plot_message(axes, str(tokens), title, points=points)
        return
    note = ""
    if kind == "principal components":
        axes.imshow(token_images.pca_rgb(tokens.patches, scale.basis), interpolation="nearest")
    elif kind == "similarity":
        values = token_images.cosine_map(tokens.patches, scale.patch)
        axes.imshow(values, vmin=scale.lowest_cosine, vmax=1.0, cmap="viridis", interpolation="nearest")
        _outline(axes, scale.patch, cell=(1.0, 1.0), origin=-0.5)
        note = f"{values.min():.2f} to 1"
    else:
        values = token_images.norms(tokens.patches)
        brightness = token_images.levels(values, *scale.norm_range, resolution=scale.norm_rounding)
        axes.imshow(brightness, vmin=0.0, vmax=1.0, cmap="magma", interpolation="nearest")
        prefix = ", ".join(f"{norm:.3g}" for norm in token_images.norms(tokens.prefix)[:3])
        note = _norm_note(values, rounding=scale.norm_rounding) + (f"; prefix {prefix}" if prefix else "")
    _hide_axes(axes, title, points=points)
    axes.set_xlabel(note, fontsize=min(6.5, points), labelpad=1.5, color="0.35")


def _norm_note(values: npt.NDArray[np.float64], *, rounding: float) -> str:
    """Name the range of norms, or the one norm if they differ by no more than rounding."""
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g} to {high:.3g}" if high - low > rounding else f"all {(low + high) / 2:.3g}"


def _outline(axes: "Axes", patch: tuple[int, int], *, cell: tuple[float, float], origin: float = 0.0) -> None:
    """Outline a patch; `cell` is its (height, width) in the picture's coordinates."""
    from matplotlib.patches import Rectangle

    corner = (patch[1] * cell[1] + origin, patch[0] * cell[0] + origin)
    for colour, line_width in (("black", 2.6), ("white", 1.2)):
        axes.add_patch(Rectangle(corner, cell[1], cell[0], fill=False, edgecolor=colour, linewidth=line_width))


def _plot_message(axes: "Axes", message: str, title: str = "", *, points: float = 8.0) -> None:
    axes.set_facecolor("0.94")
    axes.set_box_aspect(1.0)
    text = "\n".join(textwrap.wrap(message, WRAP_CHARACTERS)[:8])
    style: dict[str, Any] = {"fontsize": 6.5, "color": "0.2", "parse_math": False}
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **style)
    _hide_axes(axes, title, points=points)


def _hide_axes(axes: "Axes", title: str, *, points: float = 8.0) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=points, pad=3, parse_math=False)


def _teacher_title(shown: RowsToShow, name: str, *, between: str = "  ") -> str:
    info = shown.teachers[name]
    code = "" if info.code is None else f", {info.code.ratio:g}x code"
    return f"{name}{between}{info.patch_grid[0]}x{info.patch_grid[1]}x{info.channels}{code}"


def _heading(shown: RowsToShow, row: ShownRow) -> tuple[str, str]:
    return f"{shown.dataset.name} ({shown.dataset.group}, {shown.dataset.split})", _caption(row)


def _caption(row: ShownRow) -> str:
    parts = [f"row {row.row}", row.path, f"view {row.view}"]
    record: Mapping[str, Any] = row.record
    if record.get("crop_height") is not None:
        crop = f"{record['crop_width']} x {record['crop_height']} px at ({record['crop_left']}, {record['crop_top']})"
        parts.append(f"crop {crop} of {record['source_width']} x {record['source_height']}")
    if record.get("flip"):
        parts.append("flipped")
    return " · ".join(parts)
