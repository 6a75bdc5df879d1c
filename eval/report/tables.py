"""Tables as data: what the page, the terminal and the tests read alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

MISSING = "\N{EM DASH}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cell shows: text, what it sorts by (None: the text), a smaller second line and a style class."""

    text: str
    sort: float | str | None = None
    beside: str = ""
    css: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading; numbers are set to the right."""

    title: str
    numeric: bool = False
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns and rows of cells, with a caption above."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = field(default=True)


def text_cell(value: object, *, beside: str = "", css: str = "") -> Cell:
    """A cell of text; None is shown as a dash."""
    return Cell(text=MISSING if value is None or value == "" else str(value), beside=beside, css=css)


def number_cell(value: float | None, *, digits: int = 3, css: str = "", unit: str = "") -> Cell:
    """A cell of one number; None and NaN are shown as a dash and sort last."""
    if value is None or not math.isfinite(value):
        return Cell(text=MISSING, sort="")
    return Cell(text=f"{value:z,.{digits}f}{unit}".replace("-", "\N{MINUS SIGN}"), sort=float(value), css=css)


def interval_cell(value: float, low: float, high: float, *, css: str = "", sign: bool = False, digits: int = 3) -> Cell:
    """A number with its interval below it."""
    cell = number_cell(value, css=css, digits=digits)
    if cell.text == MISSING:
        return cell
    plus = "+" if sign and value > 0 else ""
    known = math.isfinite(low) and math.isfinite(high)
    beside = f"{low:z.{digits}f} to {high:z.{digits}f}".replace("-", "\N{MINUS SIGN}") if known else "one image"
    return Cell(text=plus + cell.text, sort=cell.sort, beside=beside, css=css)


def bytes_cell(count: float) -> Cell:
    """A number of bytes in a unit that keeps it short."""
    return Cell(text=human_bytes(count), sort=float(count))


def human_bytes(count: float) -> str:
    """Decimal units, three digits: 1.18 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    raise AssertionError("unreachable")


def to_rich(table: Table, *, title: str = "") -> RichTable:
    """The same table for the terminal, without the second lines of its cells."""
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
        texts = [Text(cell.text, style="bold" if cell.css == "best" else "") for cell in row]
        rendered.add_row(*texts)
    return rendered
