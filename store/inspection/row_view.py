"""What `codistill store show` shows of some rows: gathered from shards and, where at hand, the source photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.dataset import Dataset
from store.cache.metadata import TeacherInfo
from store.format.schema import OK, PIXELS

MAX_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One teacher's tokens of one row: prefix float16 [P, C] and patches float16 [rows, cols, C]."""

    prefix: npt.NDArray[Any]
    patches: npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A source image for looking at.

    Attributes:
        pixels: uint8 [h, w, 3], upright, made smaller.
        width, height: px of the upright original, which the crop speaks of.
        crop: (top, left, height, width) px of the original.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    crop: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One row.

    Attributes:
        row: its number.
        path, view: the image and which view of it.
        pixels: uint8 [H, W, 3], or why there are none.
        photograph: the source image with its crop, or why it is not shown.
        tokens: by teacher, or why there are none.
        record: its manifest row; empty where no trailer has one.
    """

    row: int
    path: str
    view: int
    pixels: npt.NDArray[np.uint8] | str
    photograph: Photograph | str
    tokens: Mapping[str, Tokens | str]
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowsToShow:
    """Rows of one dataset and the teachers shown, by name."""

    dataset: Dataset
    rows: Sequence[ShownRow]
    teachers: Mapping[str, TeacherInfo] = field(default_factory=dict)


def gather(
    dataset: Dataset, rows: Sequence[int], *, teachers: Sequence[str] | None = None, images: Path | None = None
) -> RowsToShow:
    """Collect what can be shown of rows; needs no seal.

    Args:
        dataset: whose rows.
        rows: numbers, in the order to show them.
        teachers: names; None takes all.
        images: folder that the paths of the image list are relative to; None tries the one that the dataset records.

    Raises:
        errors.InvalidInput: a row is out of bounds, or too many.
        errors.MissingName: a teacher has no tokens here.
        errors.MissingFile: `images` is no folder.
        errors.Damaged: a shard is.
    """
    outside = [row for row in rows if not 0 <= row < dataset.rows]
    if outside:
        raise errors.InvalidInput(f"rows {outside} are not in '{dataset.name}', which has 0..{dataset.rows - 1}")
    if not 1 <= len(rows) <= MAX_ROWS:
        raise errors.InvalidInput(f"{len(rows)} rows: between 1 and {MAX_ROWS} fit one picture")
    infos = {name: dataset.teacher(name) for name in (dataset.teachers if teachers is None else teachers)}
    folder = _images_folder(dataset, images)
    listed = dataset.image_list()["path"]
    shown = []
    for row in rows:
        path = listed[row // dataset.views].as_py()
        record = _record(dataset, row)
        shown.append(
            ShownRow(
                row=row,
                path=path,
                view=dataset.first_view + row % dataset.views,
                pixels=_read(dataset, PIXELS, row),
                photograph=folder if isinstance(folder, str) else read_photograph(folder / path, record),
                tokens={name: _tokens(dataset, info, row) for name, info in infos.items()},
                record=record,
            )
        )
    return RowsToShow(dataset=dataset, rows=shown, teachers=infos)


def _images_folder(dataset: Dataset, given: Path | None) -> Path | str:
    """Return the folder of the source images, or why there is none."""
    if given is not None:
        if not given.is_dir():
            raise errors.MissingFile(f"folder of images '{given}' does not exist. Give the root of '{dataset.name}'")
        return given
    recorded = dataset.source.get("root")
    if isinstance(recorded, str) and Path(recorded).is_dir():
        return Path(recorded)
    return "source photograph: pass --images FOLDER"


def _read(dataset: Dataset, array: str, row: int) -> npt.NDArray[Any] | str:
    """Return one row, or why it cannot be shown."""
    if dataset.array(array).layout is not None:
        try:
            said = dataset.read_trailer(array, row // dataset.shard_rows)
        except errors.MissingShard:
            return "missing: not made yet"
        if said.status[row - said.rows.start] != OK:
            return f"failed: {said.errors.get(row, 'no reason recorded')}"
    values: npt.NDArray[Any] = dataset.read([row], [array])[array][0]
    return values


def _tokens(dataset: Dataset, info: TeacherInfo, row: int) -> Tokens | str:
    values = _read(dataset, info.name, row)
    if isinstance(values, str):
        return values
    patches = values[info.prefix_tokens :].reshape(*info.patch_grid, info.channels)
    return Tokens(prefix=values[: info.prefix_tokens], patches=patches)


def _record(dataset: Dataset, row: int) -> dict[str, Any]:
    """Return the manifest row, empty without one."""
    if dataset.array(PIXELS).layout is None:
        return {}
    try:
        said = dataset.read_trailer(PIXELS, row // dataset.shard_rows)
    except errors.MissingShard:
        return {}
    table = said.manifest()
    return {} if table is None else dict(table.slice(row - said.rows.start, 1).to_pylist()[0])


LONGEST_SIDE_PX = 1024

INSPECT_EXTRA = "pip install 'codistill[inspect]'"


def read_photograph(path: Path, record: Mapping[str, Any]) -> Photograph | str:
    """Read a source image, turned as its manifest row says.

    Args:
        path: of the image file.
        record: the manifest row.

    Returns:
        The photograph, or why it cannot be shown.

    Raises:
        errors.MissingExtra: pillow is not installed.
    """
    if record.get("crop_height") is None:
        return "no crop: the row has no pixels"
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise errors.MissingExtra(f"pictures need pillow. Run: {INSPECT_EXTRA}") from error
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"source photograph not readable: {error}"
    if record["rotate_deg"]:
        image = image.rotate(record["rotate_deg"], expand=True)  # counter-clockwise, as the rotate rule
    if image.size != (record["source_width"], record["source_height"]):
        wanted = f"{record['source_width']} x {record['source_height']}"
        return f"source photograph has changed: {image.width} x {image.height} px, was {wanted}"
    width, height = image.size
    image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    top, left, crop_height, crop_width = (record[f"crop_{name}"] for name in ("top", "left", "height", "width"))
    return Photograph(pixels=np.asarray(image), width=width, height=height, crop=(top, left, crop_height, crop_width))
