"""Rows of the paper's tables for one model: runs the protocols that a table is made of, and writes it.

Folder DATA, of which each table takes what it needs:
    mapfree/{val,test}     ade20k/     nyud/     bedlam/     robustmvd/{kitti,scannet,eth3d,dtu,tanks_and_temples}/
    co3d/                  realestate10k/
Folder OUT: table-N.md, table-N.csv, table-N.json, and below it the results of each protocol, which are not computed
again. What there are no data or no weights for is left out, and a note says so.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.heads.scoring.paper_tables import TABLES, PaperTable, TableNumber
from store.common import atomic
from store.errors import CodistillError, InvalidInput, MissingFile

NOT_RUN = "\N{EN DASH}"
OURS = "this run"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A protocol of a table.

    Attributes:
        name: name of the protocol and of its folder below OUT.
        data: names below DATA, any of which it needs.
        needs: what the protocol needs besides data, for the note, such as `--mast3r`.
        run: given DATA and the folder for its results, returns figures by column and lines to tell; None if what it
            needs was not given.
        optional: the table is complete without it.
    """

    name: str
    data: tuple[str, ...]
    needs: str
    run: "Callable[[Path, Path], PartResult] | None"
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """Figures of a protocol by column, in the unit of the table, and lines to tell."""

    figures: Mapping[str, float]
    notes: Sequence[str] = ()
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class TableResult:
    """A written table.

    Attributes:
        figures: figures of this model by column.
        notes: what was left out, and what failed.
        markdown: the table as text.
        complete: every protocol ran, and on all of its data.
    """

    figures: dict[str, float]
    notes: list[str]
    markdown: str
    complete: bool


@dataclass
class _Gathered:
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    complete: bool = True
    ran: bool = False

    def leave_out(self, note: str, *, wanted: bool = True) -> None:
        self.notes.append(note)
        self.complete = self.complete and not wanted


def write_table(
    number: TableNumber, parts: Sequence[Part], data: Path, out: Path, *, method: str, encoder: str = OURS
) -> TableResult:
    """Run the protocols of a table and write it as Markdown, CSV and JSON.

    A protocol that fails is told in a note, the others go on.

    Args:
        number: number of the table in the paper.
        parts: its protocols.
        data: folder DATA.
        out: folder for the table and for results.
        method: name of the model in its row.
        encoder: its encoder in its row.

    Raises:
        MissingFile: there are neither data nor weights for a single protocol.
        InvalidInput: every protocol failed.
    """
    paper, gathered = TABLES[number], _Gathered()
    failures: list[CodistillError] = []
    for part in parts:
        missing = _missing(part, data)
        if missing or part.run is None:
            gathered.leave_out(f"{part.name}: not run; {missing or f'it needs {part.needs}'}", wanted=not part.optional)
            continue
        try:
            result = part.run(data, out / part.name)
        except CodistillError as error:
            gathered.leave_out(f"{part.name}: failed; {error}")
            failures.append(error)
            continue
        gathered.ran = True
        gathered.figures.update(result.figures)
        gathered.notes += [f"{part.name}: {note}" for note in result.notes]
        gathered.complete = gathered.complete and result.complete
    if not gathered.ran:
        reasons = ". ".join(gathered.notes)
        raise (InvalidInput if failures else MissingFile)(f"table {number}: nothing to show. {reasons}")
    row = [method, encoder, *(_shown(paper, gathered.figures, column.name) for column in paper.columns)]
    markdown = _markdown(paper, row, gathered.notes)
    _write(paper, row, gathered, markdown, out)
    return TableResult(figures=gathered.figures, notes=gathered.notes, markdown=markdown, complete=gathered.complete)


def paper_rows(paper: PaperTable) -> list[list[str]]:
    """Return the rows of the paper as cells."""
    return [
        [row.method, row.encoder, *(_shown(paper, row.figures, column.name) for column in paper.columns)]
        for row in paper.rows
    ]


def _missing(part: Part, data: Path) -> str:
    """Say which data a protocol lacks; empty if some are there."""
    if any((data / name).is_dir() for name in part.data):
        return ""
    return f"no folder {' or '.join(str(data / name) for name in part.data)}"


def _shown(paper: PaperTable, figures: Mapping[str, float], name: str) -> str:
    digits = next(column.digits for column in paper.columns if column.name == name)
    value = figures.get(name)
    return NOT_RUN if value is None or value != value else f"{value:.{digits}f}"


def _markdown(paper: PaperTable, row: Sequence[str], notes: Sequence[str]) -> str:
    """Return the table: the paper's rows, then ours."""
    heading = ["Method", "Encoder", *(column.title for column in paper.columns)]
    alignment = ["---", "---", *("---:" for _ in paper.columns)]
    own = [f"**{row[0]}**", *row[1:]]
    lines = [f"| {' | '.join(_escaped(cell) for cell in cells)} |" for cells in (heading, *paper_rows(paper), own)]
    lines.insert(1, f"| {' | '.join(alignment)} |")
    remarks = [f"* {note}" for note in (*paper.notes, *notes)]
    title = f"# Table {paper.number}: {paper.title}"
    return "\n".join([title, "", *lines, "", "Rows without bold type are printed in the paper.", "", *remarks]) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _write(paper: PaperTable, row: Sequence[str], gathered: _Gathered, markdown: str, out: Path) -> None:
    stem = f"table-{paper.number}"
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["source", "method", "encoder", *(column.name for column in paper.columns)])
    writer.writerows(["paper", *cells] for cells in paper_rows(paper))
    writer.writerow([OURS, *row])
    figures = {name: None if value != value else value for name, value in gathered.figures.items()}
    content = {"table": paper.number, "method": row[0], "figures": figures, "notes": gathered.notes}
    atomic.write_text(out / f"{stem}.md", markdown)
    atomic.write_text(out / f"{stem}.csv", text.getvalue())
    atomic.write_text(out / f"{stem}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
