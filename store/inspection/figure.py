"""Figure of `codistill store show`: for each row photograph, pixels, and three pictures of every teacher's tokens."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.common import atomic
from store.inspection import token_images
from store.inspection.row_view import INSPECT_EXTRA, Photograph, RowsToShow, ShownRow, Tokens
from store.inspection.token_images import Basis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")
KINDS = ("principal components", "similarity", "norm")
PANEL_INCHES = 1.75
PHOTOGRAPH_PANELS = 1.55  # width of the photograph of a single row, in panels
BETWEEN_ROWS_INCHES = 0.42
DPI = 130
CLIP_PERCENT = 1.0
WRAP_CHARACTERS = 26
LEAST_COSINE_RANGE = 2.0**-10  # narrower ranges of similarity are rounding


@dataclass(frozen=True, kw_only=True)
class TeacherView:
    """Scales shared by all pictures of one teacher, so that rows can be compared.

    Attributes:
        basis: principal components that become colours.
        patch: (row, col) that similarities are to.
        norm_range: lowest and highest norm of the patches shown.
        norm_rounding: difference of norms that the rounding of stored tokens can cause.
        lowest_cosine: lowest similarity of all patches shown.
    """

    basis: Basis
    patch: tuple[int, int]
    norm_range: tuple[float, float]
    norm_rounding: float
    lowest_cosine: float


def plot_rows(shown: RowsToShow, out: Path, *, patch: tuple[int, int] | None = None) -> None:
    """Plot rows into a file.

    Args:
        shown: rows, from `store.inspection.row_view.gather`.
        out: picture file; its suffix chooses the format.
        patch: (row, col) that similarities are to; None takes the central one.

    Raises:
        errors.InvalidInput: another suffix, or a patch outside a teacher's grid.
        errors.MissingFile: the folder of `out` does not exist.
        errors.MissingExtra: matplotlib is not installed.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise errors.InvalidInput(f"cannot draw into '{out}': its name must end in one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise errors.MissingFile(f"cannot draw into '{out}': folder '{out.parent}' does not exist")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.MissingExtra(f"pictures need matplotlib. Run: {INSPECT_EXTRA}") from error
    views = _teacher_views(shown, patch)
    figure = Figure(dpi=DPI, facecolor="white")
    if len(shown.rows) == 1:
        _plot_one_row(figure, shown, views)
    else:
        _plot_several_rows(figure, shown, views)
    with atomic.replacing(out) as partial:
        figure.savefig(partial)


def _teacher_views(shown: RowsToShow, patch: tuple[int, int] | None) -> dict[str, TeacherView]:
    views = {}
    for name, info in shown.teachers.items():
        rows, cols = info.patch_grid
        chosen = patch or (rows // 2, cols // 2)
        grids = [tokens.patches for row in shown.rows if isinstance(tokens := row.tokens[name], Tokens)]
        if not grids:
            continue
        lengths = np.stack([token_images.norms(grid) for grid in grids])
        cosines = [token_images.cosine_map(grid, chosen) for grid in grids]
        views[name] = TeacherView(
            basis=token_images.pca_basis(_flat(grids), clip_percent=CLIP_PERCENT),
            patch=chosen,
            norm_range=(float(lengths.min()), float(lengths.max())),
            norm_rounding=max(token_images.rounding(grid) for grid in grids),
            lowest_cosine=min(float(np.min(cosines)), 1.0 - LEAST_COSINE_RANGE),
        )
    return views


def _flat(grids: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])


def _plot_one_row(figure: "Figure", shown: RowsToShow, views: Mapping[str, TeacherView]) -> None:
    """Plot one row: photograph and pixels on the left, teachers side by side, a line for each kind of picture."""
    (row,) = shown.rows
    columns = len(shown.teachers)
    lines = len(KINDS) if columns else 1
    width, height = (PHOTOGRAPH_PANELS + columns) * PANEL_INCHES + 0.5, lines * (PANEL_INCHES + 0.25) + 1.1
    figure.set_size_inches(width, height)
    top, bottom = 1 - 0.85 / height, 0.45 / height
    grid = figure.add_gridspec(
        1,
        1 + columns,
        width_ratios=[PHOTOGRAPH_PANELS, *[1.0] * columns],
        left=0.02,
        right=0.99,
        top=top,
        bottom=bottom,
        wspace=0.08,
    )
    has_photograph = isinstance(row.photograph, Photograph)
    left = grid[0].subgridspec(2 if has_photograph else 1, 1, hspace=0.1)
    if has_photograph:
        _plot_photograph(figure.add_subplot(left[0]), row, title=True)
    _plot_pixels(figure.add_subplot(left[-1]), row, views, title=True)
    for column, name in enumerate(shown.teachers):
        cells = grid[1 + column].subgridspec(len(KINDS), 1, hspace=0.2)
        for line, kind in enumerate(KINDS):
            axes = figure.add_subplot(cells[line])
            title = f"{_teacher_title(shown, name)}\n{kind}" if line == 0 else kind
            _plot_tokens(axes, row.tokens[name], views.get(name), kind=kind, title=title)
    figure.text(0.02, 1 - 0.12 / height, _heading(shown, row), va="top", fontsize=9, weight="bold", parse_math=False)
    _footer(figure, shown, has_photograph, height)


def _plot_several_rows(figure: "Figure", shown: RowsToShow, views: Mapping[str, TeacherView]) -> None:
    """Plot several rows: a line for each, the teachers side by side within each kind of picture."""
    has_photograph = any(isinstance(row.photograph, Photograph) for row in shown.rows)
    before, teachers = 1 + has_photograph, list(shown.teachers)
    columns = before + len(KINDS) * len(teachers)
    lines = len(shown.rows)
    panel = PANEL_INCHES
    height = lines * (panel + BETWEEN_ROWS_INCHES) + 0.6
    figure.set_size_inches(columns * panel * 1.04 + 0.4, height)
    top, bottom = 1 - 0.4 / height, 0.5 / height
    space = {"wspace": 0.05, "hspace": BETWEEN_ROWS_INCHES / panel}
    grid = figure.add_gridspec(lines, columns, left=0.02, right=0.99, top=top, bottom=bottom, **space)
    for line, row in enumerate(shown.rows):
        first = line == 0
        if has_photograph:
            _plot_photograph(figure.add_subplot(grid[line, 0]), row, title=first)
        axes = figure.add_subplot(grid[line, before - 1])
        _plot_pixels(axes, row, views, title=first)
        edge = grid[line, 0].get_position(figure)
        figure.text(edge.x0, edge.y0 - 0.04 / height, _caption(row), va="top", fontsize=7.5, parse_math=False)
        for number, kind in enumerate(KINDS):
            for column, name in enumerate(teachers):
                cell = grid[line, before + number * len(teachers) + column]
                title = f"{_teacher_title(shown, name)}\n{kind}" if first else ""
                _plot_tokens(figure.add_subplot(cell), row.tokens[name], views.get(name), kind=kind, title=title)
    _footer(figure, shown, has_photograph, height)


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


def _plot_pixels(axes: "Axes", row: ShownRow, views: Mapping[str, TeacherView], *, title: bool) -> None:
    if isinstance(row.pixels, str):
        _plot_message(axes, row.pixels, "pixels" if title else "")
        return
    axes.imshow(row.pixels)
    for name, tokens in row.tokens.items():
        if isinstance(tokens, Tokens):
            height, width = row.pixels.shape[:2]
            _outline(axes, views[name].patch, cell=(height / tokens.patches.shape[0], width / tokens.patches.shape[1]))
            break
    _hide_axes(axes, "pixels (as stored)" if title else "")


def _plot_tokens(axes: "Axes", tokens: Tokens | str, view: TeacherView | None, *, kind: str, title: str) -> None:
    if isinstance(tokens, str) or view is None:
        _plot_message(axes, str(tokens), title)
        return
    note = ""
    if kind == "principal components":
        axes.imshow(token_images.pca_rgb(tokens.patches, view.basis), interpolation="nearest")
    elif kind == "similarity":
        values = token_images.cosine_map(tokens.patches, view.patch)
        axes.imshow(values, vmin=view.lowest_cosine, vmax=1.0, cmap="viridis", interpolation="nearest")
        _outline(axes, view.patch, cell=(1.0, 1.0), origin=-0.5)
        note = f"{values.min():.2f} to 1"
    else:
        values = token_images.norms(tokens.patches)
        brightness = token_images.levels(values, *view.norm_range, resolution=view.norm_rounding)
        axes.imshow(brightness, vmin=0.0, vmax=1.0, cmap="magma", interpolation="nearest")
        prefix = ", ".join(f"{norm:.3g}" for norm in token_images.norms(tokens.prefix)[:3])
        note = _norm_note(values, rounding=view.norm_rounding) + (f"; prefix {prefix}" if prefix else "")
    _hide_axes(axes, title)
    axes.set_xlabel(note, fontsize=6.5, labelpad=1.5, color="0.35")


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


def _plot_message(axes: "Axes", message: str, title: str = "") -> None:
    axes.set_facecolor("0.94")
    axes.set_box_aspect(1.0)
    text = "\n".join(textwrap.wrap(message, WRAP_CHARACTERS)[:8])
    style: dict[str, Any] = {"fontsize": 6.5, "color": "0.2", "parse_math": False}
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **style)
    _hide_axes(axes, title)


def _hide_axes(axes: "Axes", title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=8, pad=3)


def _teacher_title(shown: RowsToShow, name: str) -> str:
    info = shown.teachers[name]
    code = "" if info.code is None else f"  decoded, {info.code.ratio:g}x"
    return f"{name}  {info.patch_grid[0]}x{info.patch_grid[1]}x{info.channels}{code}"


def _heading(shown: RowsToShow, row: ShownRow) -> str:
    return f"{shown.dataset.name} ({shown.dataset.group}, {shown.dataset.split})\n{_caption(row)}"


def _caption(row: ShownRow) -> str:
    parts = [f"row {row.row}", row.path, f"view {row.view}"]
    record: Mapping[str, Any] = row.record
    if record.get("crop_height") is not None:
        crop = f"{record['crop_width']} x {record['crop_height']} px at ({record['crop_left']}, {record['crop_top']})"
        parts.append(f"crop {crop} of {record['source_width']} x {record['source_height']}")
    if record.get("flip"):
        parts.append("flipped")
    return " · ".join(parts)


def _footer(figure: "Figure", shown: RowsToShow, has_photograph: bool, height: float) -> None:
    notes: Sequence[str] = [
        "colours: three principal components, one basis for all rows of a teacher",
        "similarity: cosine to the outlined patch",
    ]
    missing = [] if has_photograph else sorted({str(row.photograph) for row in shown.rows})
    text = "   ".join([*notes, *missing])
    figure.text(0.02, 0.07 / height, text, fontsize=7, color="0.35", va="bottom", parse_math=False)
