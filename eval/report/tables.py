"""Tables as data, for the page and the terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from store.common.text import human_bytes

MISSING = "\N{EM DASH}"
TERMINAL_STYLES = {"best": "bold", "loses": "red"}
TERMINAL_MARKS = {"loses": "\N{BLACK DOWN-POINTING SMALL TRIANGLE} "}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: text of the cell.
        sort: value that the column is sorted by; None takes the text.
        beside: smaller second line.
        css: style class: `best` wins, `loses` is no better than a baseline, `up` and `down` are clear differences.
    """

    text: str
    sort: float | str | None = None
    beside: str = ""
    css: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its heading, whether it holds numbers (aligned right), and a tooltip of the heading."""

    title: str
    numeric: bool = False
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: columns, rows of cells, a caption above."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = field(default=True)


def text_cell(value: object, *, beside: str = "", css: str = "") -> Cell:
    """Make a cell of text; None is shown as a dash."""
    return Cell(text=MISSING if value is None or value == "" else str(value), beside=beside, css=css)


def number_cell(value: float | None, *, digits: int = 3, css: str = "", unit: str = "") -> Cell:
    """Make a cell of one number; None and NaN are shown as a dash and sort last."""
    if value is None or not math.isfinite(value):
        return Cell(text=MISSING, sort="")
    return Cell(text=f"{value:z,.{digits}f}{unit}".replace("-", "\N{MINUS SIGN}"), sort=float(value), css=css)


def interval_cell(value: float, low: float, high: float, *, css: str = "", sign: bool = False, digits: int = 3) -> Cell:
    """Make a cell of a number with its interval below it."""
    cell = number_cell(value, css=css, digits=digits)
    if cell.text == MISSING:
        return cell
    plus = "+" if sign and round(value, digits) > 0 else ""
    known = math.isfinite(low) and math.isfinite(high)
    beside = f"{low:z.{digits}f} to {high:z.{digits}f}".replace("-", "\N{MINUS SIGN}") if known else "one image"
    return Cell(text=plus + cell.text, sort=cell.sort, beside=beside, css=css)


def bytes_cell(count: float) -> Cell:
    """Make a cell of a number of bytes."""
    return Cell(text=human_bytes(count), sort=float(count))


def to_rich(table: Table, *, title: str = "") -> RichTable:
    """Convert a table for the terminal, without the second lines of its cells."""
    rendered = RichTable(
        title=title or table.caption or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    for column in table.columns:
        justify: JustifyMethod = "right" if column.numeric else "left"
        rendered.add_column(column.title, justify=justify, no_wrap=column.numeric, overflow="fold")
    for row in table.rows:
        texts = [
            Text(TERMINAL_MARKS.get(cell.css, "") + cell.text, style=TERMINAL_STYLES.get(cell.css, "")) for cell in row
        ]
        rendered.add_row(*texts)
    return rendered
