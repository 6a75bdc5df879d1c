"""The part of the page that shows probe results kept with the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.probes.probe_results import ProbeResult
from eval.report.page import Section, TableBlock
from eval.report.tables import Column, Table, number_cell, text_cell

TITLES = {
    "knn": "k-nearest-neighbour classification",
    "linear": "Linear classification",
    "segmentation": "Linear segmentation",
    "depth": "Linear depth",
}


def section(found: Mapping[str, Sequence[ProbeResult]]) -> Section:
    """One table for each kind of probe; the encoders of all runs below each other."""
    blocks = []
    for kind, title in TITLES.items():
        results = [(run, result) for run, kept in found.items() for result in kept if result.kind == kind]
        if results:
            blocks.append(TableBlock(table=_table(results, several=len(found) > 1), title=title))
    return Section(
        anchor="probes",
        short="Probes",
        title="Probes on the frozen encoder",
        intro=("Small heads trained on features that stay as they are: what the encoder is good for by itself.",),
        blocks=blocks,
    )


def _table(results: Sequence[tuple[str, ProbeResult]], *, several: bool) -> Table:
    """Encoders as rows, the single numbers of the results as columns."""
    names = dict.fromkeys(name for _, result in results for name, value in result.figures.items() if _is_number(value))
    columns = [
        *([Column(title="Run")] if several else []),
        Column(title="Encoder"),
        Column(title="Data"),
        *(Column(title=name, numeric=True) for name in names),
    ]
    rows = []
    for run, result in results:
        lead = [text_cell(run)] if several else []
        values = [_number(result.figures.get(name)) for name in names]
        cells = [
            number_cell(value, digits=0 if _whole(name, results) else 3)
            for name, value in zip(names, values, strict=True)
        ]
        rows.append([*lead, text_cell(result.encoder), text_cell(result.dataset), *cells])
    return Table(columns=columns, rows=rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _whole(name: str, results: Sequence[tuple[str, ProbeResult]]) -> bool:
    """Whether a figure is a count, in all results."""
    values = [result.figures[name] for _, result in results if name in result.figures]
    return all(isinstance(value, int) for value in values)
