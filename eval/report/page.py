"""What a page is made of: sections of blocks. `page.html` draws them, nothing else decides what is shown."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np

from eval.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Card:
    """One figure that matters, what it is, and what it should be compared with."""

    what: str
    figure: str
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class TableBlock:
    """A table; `folded` hides it behind that line until it is opened."""

    kind: ClassVar[str] = "table"
    table: Table
    title: str = ""
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An SVG chart made by `eval.report.charts`."""

    svg: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class ChartsBlock:
    """Charts side by side where the screen is wide enough."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image, perhaps with a word below it; a map of patches is enlarged without smoothing. No `uri`: a gap."""

    uri: str
    alt: str
    map: bool = False
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class PictureColumn:
    """What a column of pictures shows."""

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
    """Grids of pictures, two in a line where the screen is wide enough."""

    kind: ClassVar[str] = "sheets"
    sheets: Sequence[PicturesBlock]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line of a list, with a command to copy."""

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
    """Words and what they mean."""

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
    """Part of the page with its own entry in the navigation."""

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
    """An image as part of the page.

    Args:
        pixels: uint8 (H, W, 3).
        lossy: photographs as JPEG, a tenth of the size; maps of patches must stay exact.
    """
    from PIL import Image

    buffer = io.BytesIO()
    kind = "JPEG" if lossy else "PNG"
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format=kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def render(page: Page) -> str:
    """The page as one self-contained HTML document. All text is escaped; only our own charts are inserted as SVG."""
    import jinja2

    folder = files("eval.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    css, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return template.render(page=page, css=css, js=script)


def write(page: Page, directory: Path) -> Path:
    """Write DIRECTORY/index.html, replacing an older one whole."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    partial = directory / ".index.html.partial"
    partial.write_text(render(page), encoding="utf-8")
    partial.replace(path)
    return path
