"""The page: sections of blocks as data, rendered by `page.html` into one self-contained file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np

from eval.report.tables import Table
from store.common import atomic


@dataclass(frozen=True, kw_only=True)
class Card:
    """A headline figure: what it is, the figure, what to compare it with; `css` is `loses` or empty."""

    what: str
    figure: str
    beside: str = ""
    css: str = ""


@dataclass(frozen=True, kw_only=True)
class TableBlock:
    """A table; `folded` is the line that it is hidden behind until the reader opens it, empty to show it."""

    kind: ClassVar[str] = "table"
    table: Table
    title: str = ""
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, SVG from `eval.report.charts`."""

    svg: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class ChartsBlock:
    """Charts side by side where the screen is wide enough."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of a grid.

    Attributes:
        uri: data URI of the image; empty leaves a gap.
        alt: text for screen readers and tooltip.
        map: the image is a map of patches, which is enlarged without smoothing.
        below: text below the image.
    """

    uri: str
    alt: str
    map: bool = False
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class PictureColumn:
    """Heading of a column of pictures, with a smaller second line."""

    title: str
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class PicturesBlock:
    """A grid of pictures with a heading for each column and a line above each row, or `beside` it."""

    kind: ClassVar[str] = "pictures"
    columns: Sequence[PictureColumn]
    rows: Sequence[Sequence[Picture]]
    labels: Sequence[str]
    title: str = ""
    beside: bool = False


@dataclass(frozen=True, kw_only=True)
class SheetsBlock:
    """Grids of pictures, two in a line where the screen is wide enough; `folded` as in `TableBlock`."""

    kind: ClassVar[str] = "sheets"
    sheets: Sequence[PicturesBlock]
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line of a list, with a command to copy if there is one."""

    text: str
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class ListBlock:
    """A bulleted list."""

    kind: ClassVar[str] = "list"
    entries: Sequence[Item]
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class TermsBlock:
    """Terms with their definitions."""

    kind: ClassVar[str] = "terms"
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    css: str = "muted"


Block = TableBlock | ChartsBlock | PicturesBlock | SheetsBlock | ListBlock | TermsBlock | TextBlock


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of the page with its own entry, `short`, in the navigation."""

    anchor: str
    short: str
    title: str
    intro: Sequence[str] = ()
    blocks: Sequence[Block] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page."""

    title: str
    lead: str
    version: str
    notes: Sequence[str] = ()
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = field(default=())


def data_uri(pixels: np.ndarray, *, lossy: bool = False) -> str:
    """Encode an image as a data URI.

    Args:
        pixels: uint8 (H, W, 3).
        lossy: encode as JPEG, a tenth of the size; for photographs, since maps of patches must stay exact.
    """
    from PIL import Image

    buffer = io.BytesIO()
    kind = "JPEG" if lossy else "PNG"
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format=kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def render(page: Page) -> str:
    """Render the page as one self-contained HTML document; all text but the SVG of charts is escaped."""
    import jinja2

    folder = files("eval.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    css, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return template.render(page=page, css=css, js=script)


def write(page: Page, directory: Path) -> Path:
    """Write DIRECTORY/index.html in place of any older one."""
    path = directory / "index.html"
    atomic.write_text(path, render(page))
    return path
