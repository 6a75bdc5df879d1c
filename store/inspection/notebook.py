"""What a notebook shows of a dataset or of some of its rows: a table and thumbnails, as HTML without scripts.

Nothing here fails on rows that failed, are missing or were never sealed: their cell says so. Every text is escaped.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.dataset import Dataset
from store.cache.row_selection import STATES, Rows
from store.common.text import some
from store.format.schema import MISSING, OK, PIXELS
from store.inspection.token_images import pca_rgb

SHOWN_ROWS = 6
THUMBNAIL_PX = 96
SHOWN_TEACHERS = 4
NO_PILLOW = "thumbnails need pillow: pip install 'codistill[inspect]'"
CELL = 'style="text-align:left;padding:2px 8px;vertical-align:top"'
BOX = f"display:inline-block;width:{THUMBNAIL_PX}px;height:{THUMBNAIL_PX}px;overflow:hidden;font-size:10px"


def html(shown: Dataset | Rows) -> str:
    """Return what `_repr_html_` of a dataset or a view of rows gives."""
    if isinstance(shown, Rows):
        return _box(escape(repr(shown)), _thumbnails(shown.dataset, shown.numbers[:SHOWN_ROWS], of=len(shown)))
    spread = np.unique(np.linspace(0, shown.rows - 1, SHOWN_ROWS).astype(np.int64))
    return _box(_facts(shown), _arrays(shown), _thumbnails(shown, spread, of=shown.rows))


def _box(*parts: str) -> str:
    return f'<div class="codistill">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _facts(dataset: Dataset) -> str:
    views = f"{dataset.images:,} images x {dataset.views} views"
    return (
        f"<b>Dataset {escape(dataset.name)}</b>: {dataset.rows:,} rows ({views}), group {escape(dataset.group)}, "
        f"{escape(dataset.split)}, {dataset.image_size} px, in <code>{escape(dataset.storage.location)}</code>"
    )


def _arrays(dataset: Dataset) -> str:
    names = [PIXELS, *dataset.teachers]
    rows = [f"<tr>{_cells([name, *_described(dataset, name)])}</tr>" for name in names]
    head = f"<tr>{''.join(f'<th {CELL}>{title}</th>' for title in ('array', 'a row', 'stored as', 'rows'))}</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td {CELL}>{escape(text)}</td>" for text in texts)


def _described(dataset: Dataset, name: str) -> Sequence[str]:
    """Return a row's shape, the stored form and the number of rows in each state; what cannot be told says why."""
    try:
        shape, dtype = dataset.row_type(name)
        form = "as it is" if name == PIXELS else "float16"
        if name != PIXELS and (code := dataset.teacher(name).code) is not None:
            form = f"codes, {code.ratio:g}x"
        return f"{dtype} {' x '.join(map(str, shape))}", form, _states(dataset, name)
    except errors.CodistillError as error:
        return "", "", str(error)


def _states(dataset: Dataset, name: str) -> str:
    try:
        counts = np.bincount(dataset.status(name), minlength=len(STATES))
    except errors.NotSealed:
        return f"not sealed: {len(dataset.present(name))} of {dataset.shards} shards"
    return ", ".join(f"{counts[state]:,} {STATES[state]}" for state in STATES if counts[state])


def _thumbnails(dataset: Dataset, numbers: Any, *, of: int) -> str:
    """Return a table of some rows: pixels, and the principal components of each teacher's patches as colours."""
    try:
        from PIL import Image  # noqa: F401  # said once here instead of in every cell
    except ImportError:
        return NO_PILLOW
    teachers = dataset.teachers
    names = [PIXELS, *teachers[:SHOWN_TEACHERS]]
    columns = [int(number) for number in numbers]
    head = "".join(f"<th {CELL}>{number}</th>" for number in ["row", *columns])
    lines = [
        f"<tr><th {CELL}>{escape(name)}</th>"
        + "".join(f"<td {CELL}>{_thumbnail(dataset, name, row)}</td>" for row in columns)
        + "</tr>"
        for name in names
    ]
    left_out = f" Teachers not drawn: {escape(some(teachers[SHOWN_TEACHERS:]))}." if teachers[SHOWN_TEACHERS:] else ""
    note = f"{len(columns)} of {of:,} rows; of teachers, three principal components of each row's patches.{left_out}"
    return f"<table><tr>{head}</tr>{''.join(lines)}</table><small>{note}</small>"


def _thumbnail(dataset: Dataset, name: str, row: int) -> str:
    """Return one picture, or a box that says why there is none."""
    try:
        state = int(dataset.status_of(name, [row])[0])
        if state != OK:
            title = "not made yet" if state == MISSING else "codistill store failures tells why"
            return f'<span style="{BOX}" title="{title}">{STATES[state]}</span>'
        values = dataset.read([row], [name])[name][0]
        image = values if name == PIXELS else _colours(values, dataset, name)
        return _picture(image, title=f"{name}, row {row}")
    except (errors.CodistillError, OSError) as error:
        return f'<span style="{BOX}" title="{escape(str(error), quote=True)}">cannot be read</span>'


def _colours(tokens: npt.NDArray[Any], dataset: Dataset, teacher: str) -> npt.NDArray[np.uint8]:
    """Colour the patches of one row; those that a code does not store stay black."""
    info = dataset.teacher(teacher)
    patches = tokens[info.prefix_tokens :]
    stored = np.flatnonzero(np.isfinite(patches).all(axis=-1))
    image = np.zeros((len(patches), 3), np.uint8)
    if len(stored):
        image[stored] = pca_rgb(patches[stored][None])[0]
    return image.reshape(*info.patch_grid, 3)


def _picture(image: npt.NDArray[np.uint8], *, title: str) -> str:
    from PIL import Image

    file, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    size = f"width:{THUMBNAIL_PX}px;image-rendering:pixelated"
    return f'<img src="data:image/png;base64,{data}" style="{size}" title="{escape(title, quote=True)}" alt="">'
