"""Sections of the paper's analyses: explained variance, correlation of loss updates, attention maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eval.analyses.attention import ENCODER
from eval.analyses.correlation import pairs
from eval.analyses.variance import SHARES, STUDENT, TEACHER, summary_rows
from eval.report.charts import Dot, Line, dot_chart, line_chart
from eval.report.page import (
    Block,
    Chart,
    ChartsBlock,
    Picture,
    PictureColumn,
    PicturesBlock,
    Section,
    TableBlock,
    data_uri,
)
from eval.report.run_view import RunView
from eval.report.tables import Column, Table, number_cell, text_cell
from store.inspection.token_images import levels

NAN = float("nan")
COLOURS = "magma"
EVEN = 2.0**-10  # maps whose values differ by less, relative to the largest, are even: what is left is rounding
MARKED_PX = 12
MARK = (0, 255, 255)
ATTENTION_LEGEND = (
    "Each map shows how much the patch outlined in cyan attends to every patch: black the least, pale yellow the most "
    "of this map. Each map has a scale of its own."
)


def variance_section(runs: Mapping[str, Mapping[str, Any]]) -> Section:
    """Show the cumulative explained variance of teachers and projections.

    Args:
        runs: run -> curves, as `eval.analyses.variance.explained_variance` gives them.
    """
    blocks: list[Block] = []
    for run, by_dataset in runs.items():
        prefix = f"{run}: " if len(runs) > 1 else ""
        charts = []
        for dataset, teachers in by_dataset.items():
            svg = line_chart(
                variance_lines(teachers),
                x_label="components",
                y_label="explained variance",
                log_x=True,
                y_range=(0.0, 1.0),
            )
            charts.append(Chart(svg=svg, title=f"{prefix}{dataset}"))
        blocks.append(ChartsBlock(charts=charts))
        title = f"{prefix}components that hold 50, 90 and 99 % of the variance"
        blocks.append(TableBlock(table=variance_table(by_dataset), title=title, folded="Show the numbers"))
    return Section(
        anchor="variance",
        short="Variance",
        title="Explained variance",
        intro=(
            "How much of the variance of patch tokens lies in the first principal components, for teachers (solid) and "
            "the student's projections (dashed), in the teacher's own units. A curve that rises early belongs to "
            "compact features.",
        ),
        blocks=blocks,
    )


def variance_table(by_dataset: Mapping[str, Any], *, brief: bool = False) -> Table:
    """List how many components hold 50, 90 and 99 % of the variance, raw and standardised; if brief, only 90 %."""
    shares = (0.9,) if brief else SHARES
    kinds = {"raw": "", "standardised": " (std.)" if brief else ", standardised"}
    columns = [
        Column(title="Dataset"),
        Column(title="Teacher"),
        Column(title="Tokens of"),
        Column(title="Channels", numeric=True),
        Column(title="Tokens", numeric=True),
        *(Column(title=f"{100 * share:g} %{beside}", numeric=True) for beside in kinds.values() for share in shares),
    ]
    rows = []
    for row in summary_rows(by_dataset):
        few = "" if row["enough"] else "fewer than 10 a channel"
        lead = [text_cell(row["dataset"]), text_cell(row["teacher"]), text_cell(row["owner"], beside=few)]
        counts = [row[f"{kind}_{share:g}"] for kind in kinds for share in shares]
        numbers = [number_cell(value, digits=0) for value in (row["channels"], row["tokens"], *counts)]
        rows.append([*lead, *numbers])
    return Table(columns=columns, rows=rows)


def variance_lines(teachers: Mapping[str, Any]) -> list[Line]:
    """Make the curves of one dataset: teachers solid, the student's projections dashed.

    Args:
        teachers: teacher -> owner -> curves, as `eval.analyses.variance.explained_variance` gives them.
    """
    return [
        Line(
            label=teacher if owner == TEACHER else f"{teacher}, projected",
            x=list(range(1, len(owners[owner]["raw"]) + 1)),
            y=owners[owner]["raw"],
            colour=number,
            dashed=owner == STUDENT,
        )
        for number, (teacher, owners) in enumerate(sorted(teachers.items()))
        for owner in (TEACHER, STUDENT)
        if owner in owners
    ]


def correlation_section(
    logged: Mapping[str, Mapping[str, Any]], probed: Mapping[str, Mapping[str, Any]], views: Sequence[RunView]
) -> Section:
    """Show the correlation of loss updates by pair of teachers: from logs, and on a fixed probe batch.

    Args:
        logged: run -> correlation from its log.
        probed: run -> correlation on its probe batch.
        views: facts about the runs; the windows over the training are shown for the first run of each recipe.
    """
    charts = []
    for title, by_run in (("From the training log", logged), ("On a fixed probe batch", probed)):
        if by_run:
            charts.append(Chart(svg=_correlation_chart(by_run, views), title=title))
    firsts = {view.label: view.name for view in reversed(views) if view.name in logged}
    windows = [
        Chart(svg=_windows_chart(logged[view.name]), title=f"{view.name}: over the training")
        for view in views
        if firsts.get(view.label) == view.name
    ]
    return Section(
        anchor="correlation",
        short="Correlation",
        title="Correlation of loss updates",
        intro=(
            "Whether an update that lowers the loss for one teacher lowers it for another too: 1 if they always agree, "
            "0 if they are unrelated, below 0 if they are opposed. In the log each step also changes the batch, and "
            "hard batches are hard for all teachers, which raises the correlation; on a probe batch only the update "
            "counts.",
        ),
        blocks=[ChartsBlock(charts=[*charts, *windows])],
    )


def attention_section(runs: Mapping[str, pa.Table]) -> Section:
    """Show the typical attention maps of every run.

    Args:
        runs: run -> table with schema `eval.analyses.attention.MAPS`.
    """
    blocks: list[Block] = []
    for run, table in runs.items():
        entries = table.to_pylist()
        for image in sorted({entry["image"] for entry in entries}):
            of_image = [entry for entry in entries if entry["image"] == image]
            prefix = f"{run}: " if len(runs) > 1 else ""
            blocks.append(_attention_grid(of_image, title=prefix + of_image[0]["caption"]))
    return Section(
        anchor="attention",
        short="Attention",
        title="What patches attend to",
        intro=(
            "Every patch attends to all others; these are the most typical maps of a photograph (medoids of a "
            "clustering, most common first), heads averaged.",
            f"{ATTENTION_LEGEND} Below it the share of patches that it stands for.",
        ),
        blocks=blocks,
    )


def heat(values: np.ndarray) -> np.ndarray:
    """Colour a map (rows, cols) from its least to its largest value, uint8 (rows, cols, 3); one if it is even."""
    import matplotlib

    high = float(values.max())
    scaled = levels(values, float(values.min()), high, resolution=EVEN * abs(high))
    return np.asarray(np.rint(matplotlib.colormaps[COLOURS](scaled)[..., :3] * 255).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """A typical attention map.

    Attributes:
        values: attention (rows, cols) of the patch to all patches.
        patch: (row, col) of the patch.
        share: share of patches that the map stands for.
    """

    values: np.ndarray
    patch: tuple[int, int]
    share: float


def attention_grids(entries: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, dict[str, list[AttentionMap]]]:
    """Return the photograph and, by network, the typical maps from the entries of one image."""
    first = next(entry for entry in entries if entry["photograph"] is not None)
    photograph = np.frombuffer(first["photograph"], np.uint8).reshape(first["size_px"], -1, 3)
    grids: dict[str, list[AttentionMap]] = {}
    for entry in sorted(entries, key=lambda entry: int(entry["medoid"])):
        values = np.array(entry["attention"], np.float32).reshape(entry["rows"], entry["cols"])
        patch = divmod(int(entry["patch"]), int(entry["cols"]))
        grids.setdefault(entry["network"], []).append(AttentionMap(values=values, patch=patch, share=entry["share"]))
    ordered = [ENCODER, *sorted(set(grids) - {ENCODER})]
    return photograph, {network: grids[network] for network in ordered}


def _attention_grid(entries: Sequence[Mapping[str, Any]], *, title: str) -> PicturesBlock:
    photograph, grids = attention_grids(entries)
    width = max(len(maps) for maps in grids.values())
    columns = [PictureColumn(title="Photograph"), *(PictureColumn(title=str(n + 1)) for n in range(width))]
    rows = []
    for network, maps in grids.items():
        row = [Picture(uri=data_uri(photograph, lossy=True), alt=title)]
        for shown in maps:
            where = f"patch {shown.patch[0]},{shown.patch[1]}"
            alt = f"{network}: attention of {where}, which stands for {100 * shown.share:.0f} % of the patches"
            row.append(Picture(uri=data_uri(_marked(shown)), alt=alt, map=True, below=f"{100 * shown.share:.0f} %"))
        rows.append(row)
    return PicturesBlock(columns=columns, rows=rows, labels=list(grids), title=title)


def _marked(shown: AttentionMap) -> np.ndarray:
    """Colour a map with the outline of its patch, each patch `MARKED_PX` wide, uint8 (H, W, 3)."""
    pixels = heat(shown.values).repeat(MARKED_PX, 0).repeat(MARKED_PX, 1)
    top, left = (MARKED_PX * index for index in shown.patch)
    cell = pixels[top : top + MARKED_PX, left : left + MARKED_PX]
    inner = cell[1:-1, 1:-1].copy()
    cell[:] = MARK
    cell[1:-1, 1:-1] = inner
    return pixels


def _correlation_chart(by_run: Mapping[str, Mapping[str, Any]], views: Sequence[RunView]) -> str:
    """Draw one line for each pair of teachers, one dot for each run, in the colour of its recipe."""
    by_name = {view.name: view for view in views}
    names = dict.fromkeys(_pair_name(data, pair) for data in by_run.values() for pair in pairs(data["teachers"]))
    rows = []
    for name in names:
        dots = []
        for run, data in by_run.items():
            for i, j in pairs(data["teachers"]):
                if _pair_name(data, (i, j)) == name:
                    value, view = data["mean_pearson"][i][j], by_name[run]
                    shown = NAN if value is None else value
                    dots.append(Dot(label=view.label, value=shown, low=NAN, high=NAN, colour=view.colour))
        rows.append((name, dots))
    return dot_chart(rows, x_label="Pearson correlation, mean over windows", best=1.0)


def _windows_chart(data: Mapping[str, Any]) -> str:
    lines = [
        Line(
            label=_pair_name(data, (i, j)),
            x=data["first_step"],
            y=[NAN if window[i][j] is None else window[i][j] for window in data["pearson"]],
            colour=number,
        )
        for number, (i, j) in enumerate(pairs(data["teachers"]))
    ]
    return line_chart(lines, x_label="step", y_label="Pearson correlation")


def _pair_name(data: Mapping[str, Any], pair: tuple[int, int]) -> str:
    return f"{data['teachers'][pair[0]]} and {data['teachers'][pair[1]]}"
