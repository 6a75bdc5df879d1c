"""Probes section: stored probe results of the runs, one table a probe, with units, chance levels and settings."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.probes.probe_results import TITLES, ProbeResult
from eval.report.page import Block, Section, TableBlock
from eval.report.tables import Cell, Column, Table, number_cell, text_cell
from train.recipe.config import flattened

INTRO = (
    "Small heads trained on frozen features: they show what the encoder itself has learnt. Chance is what an answer "
    "that ignores the image gets: the commonest class of the training images (classification) or of the test pixels "
    "(segmentation), or one depth for all pixels. A red value with a triangle is no better than chance. Results "
    "without chance level were stored by an older version."
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Heading of a figure with its unit, and how it is shown.

    Attributes:
        title: heading, without the unit.
        unit: unit; empty for a plain number.
        digits: decimals that are shown.
        chance: name of the figure that is its chance level; empty if it has none.
        lower_is_better: True for errors.
        hint: tooltip of the heading.
    """

    title: str
    unit: str = ""
    digits: int = 1
    chance: str = ""
    lower_is_better: bool = False
    hint: str = ""

    @property
    def heading(self) -> str:
        """Title with the unit in brackets."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


FIGURES = {
    "top1": Figure(title="Top-1", unit="%", chance="chance_top1"),
    "chance_top1": Figure(title="Chance", unit="%", hint="the class of most training images, for every test image"),
    "miou": Figure(title="Mean IoU", unit="%", chance="chance_miou", hint="mean over the classes that occur"),
    "chance_miou": Figure(
        title="Chance, mean IoU", unit="%", hint="the commonest class of the test labels, for every pixel"
    ),
    "pixel_accuracy": Figure(title="Pixel accuracy", unit="%", chance="chance_pixel_accuracy"),
    "chance_pixel_accuracy": Figure(
        title="Chance, pixel accuracy", unit="%", hint="the commonest class of the test labels, for every pixel"
    ),
    "rmse": Figure(
        title="RMSE",
        unit="m",
        digits=3,
        chance="chance_rmse",
        lower_is_better=True,
        hint="mean over images; lower is better",
    ),
    "chance_rmse": Figure(
        title="Chance, RMSE", unit="m", digits=3, hint="the mean depth of the test images, for every pixel"
    ),
    "held_out_top1": Figure(
        title="Top-1 on held-out training images", unit="%", hint="decided the strength of the regularisation"
    ),
    "strength": Figure(title="Strength C", digits=4, hint="inverse L2 strength, chosen on held-out training images"),
    "loss": Figure(title="Training loss", digits=3, hint="mean over the last tenth of the steps"),
    "classes": Figure(title="Classes", digits=0),
    "train_images": Figure(title="Training images", digits=0),
    "test_images": Figure(title="Test images", digits=0),
}
NEIGHBOURS = re.compile(r"top1_k(\d+)")


def section(runs: Mapping[str, Sequence[ProbeResult]]) -> Section:
    """Show one table for each kind of probe, with the encoders of all runs.

    Args:
        runs: run -> its probe results.
    """
    blocks: list[Block] = []
    for kind, title in TITLES.items():
        results = [(run, result) for run, stored in runs.items() for result in stored if result.kind == kind]
        if results:
            blocks.append(TableBlock(table=_table(results, several=len(runs) > 1), title=title))
    return Section(anchor="probes", short="Probes", title="Probes on the frozen encoder", intro=(INTRO,), blocks=blocks)


def _table(results: Sequence[tuple[str, ProbeResult]], *, several: bool) -> Table:
    """Make a table with encoders as rows and figures as columns; figures that are lists are left out.

    Settings that all results share are in the caption, others below the encoder.
    """
    present = {name for _, result in results for name, value in result.figures.items() if _is_number(value)}
    names = sorted(present, key=_position)
    figures = {name: figure_of(name) for name in names}
    settings = [_settings(result) for _, result in results]
    shared = {key: value for key, value in settings[0].items() if all(s.get(key) == value for s in settings)}
    columns = [
        *([Column(title="Run")] if several else []),
        Column(title="Encoder"),
        Column(title="Data"),
        *(Column(title=figure.heading, numeric=True, hint=figure.hint) for figure in figures.values()),
    ]
    rows = []
    for (run, result), own in zip(results, settings, strict=True):
        different = _listed({key: value for key, value in own.items() if key not in shared})
        lead = [text_cell(run)] if several else []
        lead += [text_cell(result.encoder, beside=different), text_cell(result.dataset)]
        rows.append([*lead, *(_cell(result, name, figure) for name, figure in figures.items())])
    caption = f"Settings: {_listed(shared)}." if shared else ""
    return Table(columns=columns, rows=rows, caption=caption)


def figure_of(name: str) -> Figure:
    """Return how a figure of a probe is shown."""
    neighbours = NEIGHBOURS.fullmatch(name)
    if neighbours:
        return replace(FIGURES["top1"], title=f"Top-1, k = {neighbours[1]}")
    return FIGURES.get(name) or Figure(title=name.replace("_", " ").capitalize(), digits=3)


def _position(name: str) -> tuple[int, int, str]:
    """Return a key that sorts figures as in `FIGURES`, values of k in ascending order, unknown ones at the end."""
    neighbours = NEIGHBOURS.fullmatch(name)
    order = list(FIGURES)
    known = "top1" if neighbours else name
    return order.index(known) if known in order else len(order), int(neighbours[1]) if neighbours else 0, name


def _cell(result: ProbeResult, name: str, figure: Figure) -> Cell:
    value, chance = _number(result.figures.get(name)), _number(result.figures.get(figure.chance))
    better = value < chance if figure.lower_is_better else value > chance
    css = "loses" if math.isfinite(value) and math.isfinite(chance) and not better else ""
    return number_cell(value, digits=figure.digits, css=css)


def _settings(result: ProbeResult) -> dict[str, Any]:
    """Return the settings of a probe by dotted name."""
    return dict(flattened(result.settings.get("settings") or {}))


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    return (
        "automatic" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """Return a figure as a number; NaN if it is none."""
    return float(value) if _is_number(value) else math.nan
