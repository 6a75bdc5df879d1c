"""Probes section: stored probe results of the runs, one table a probe."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.probes.probe_results import TITLES, ProbeResult
from eval.report.page import Section, TableBlock
from eval.report.tables import Column, Table, number_cell, text_cell


def section(runs: Mapping[str, Sequence[ProbeResult]]) -> Section:
    """Show one table for each kind of probe, with the encoders of all runs.

    Args:
        runs: run -> its probe results.
    """
    blocks = []
    for kind, title in TITLES.items():
        results = [(run, result) for run, stored in runs.items() for result in stored if result.kind == kind]
        if results:
            blocks.append(TableBlock(table=_table(results, several=len(runs) > 1), title=title))
    return Section(
        anchor="probes",
        short="Probes",
        title="Probes on the frozen encoder",
        intro=("Small heads trained on frozen features: they show what the encoder itself has learnt.",),
        blocks=blocks,
    )


def _table(results: Sequence[tuple[str, ProbeResult]], *, several: bool) -> Table:
    """Make a table with encoders as rows and figures as columns; figures that are lists are left out."""
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
    """Return True if a figure is a whole number in all results."""
    values = [result.figures[name] for _, result in results if name in result.figures]
    return all(isinstance(value, int) for value in values)
