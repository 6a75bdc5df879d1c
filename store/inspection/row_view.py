"""Rows for `codistill store show`: read from shards, with the source photographs where these can be read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.dataset import Dataset
from store.cache.joined_dataset import by_part, in_whole
from store.cache.metadata import TeacherInfo
from store.cache.row_status import RowStatus
from store.common.regular_files import open_below
from store.common.threads import ThreadTeam
from store.format.schema import FAILED, MISSING, PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ROWS = 64
LONGEST_SIDE_PX = 1024
NOT_MADE = "missing: not made yet"
INSPECT_EXTRA = "pip install 'codistill[inspect]'"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One teacher's tokens of one row: prefix float16 [P, C] and patches float16 [rows, cols, C].

    Codes are decoded; patches that a code does not store are the mean of those stored in their 2 x 2 cell.
    """

    prefix: npt.NDArray[Any]
    patches: npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A source image to show.

    Attributes:
        pixels: uint8 [h, w, 3], upright, made smaller.
        width, height: size of the upright original, px.
        crop: (top, left, height, width) of the view in the original, px.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    crop: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One row to show.

    Attributes:
        row: row number.
        path: path of the image.
        view: number of the view of this image.
        pixels: uint8 [H, W, 3], or the reason why there are none.
        photograph: source image with its crop, or the reason why it is not shown.
        tokens: tokens by teacher, or the reason why there are none.
        record: manifest row; empty where no trailer has one.
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
    """Read everything that can be shown of rows; needs no seal.

    Args:
        dataset: the dataset that has the rows.
        rows: row numbers, in the order to show them.
        teachers: teacher names; None takes all.
        images: folder that the paths of the image list are relative to; None tries the one that the dataset records.

    Raises:
        errors.InvalidInput: a row is out of bounds, or too many.
        errors.MissingName: a teacher has no tokens here.
        errors.MissingFile: `images` is no folder.
        errors.Damaged: a shard is damaged.
    """
    outside = [row for row in rows if not 0 <= row < dataset.rows]
    if outside:
        raise errors.InvalidInput(f"rows {outside} are not in '{dataset.name}', which has 0..{dataset.rows - 1}")
    if not 1 <= len(rows) <= MAX_ROWS:
        raise errors.InvalidInput(f"{len(rows)} rows: between 1 and {MAX_ROWS} fit one picture")
    infos = {name: dataset.teacher(name) for name in (dataset.teachers if teachers is None else teachers)}
    folder = _images_folder(dataset, images)
    paths = dataset.image_list()["path"]
    pixels = _read(dataset, PIXELS, rows)
    tokens = {name: _read(dataset, name, rows) for name in infos}
    shown = []
    for position, row in enumerate(rows):
        path = paths[row // dataset.views].as_py()
        record = _record(dataset, row)
        shown.append(
            ShownRow(
                row=row,
                path=path,
                view=dataset.first_view + row % dataset.views,
                pixels=pixels[position],
                photograph=folder if isinstance(folder, str) else read_photograph(folder, path, record),
                tokens={name: _split(tokens[name][position], info) for name, info in infos.items()},
                record=record,
            )
        )
    return RowsToShow(dataset=dataset, rows=shown, teachers=infos)


def gather_patches(
    dataset: Dataset, rows: Sequence[int], teachers: Mapping[str, TeacherInfo]
) -> dict[str, list[npt.NDArray[Any]]]:
    """Return the patches (rows, cols, C) of teachers, of those of the rows that have them.

    Args:
        dataset: dataset of the rows.
        rows: row numbers.
        teachers: teachers by name.
    """
    found = {}
    for name, info in teachers.items():
        split = [_split(values, info) for values in _read(dataset, name, rows)]
        found[name] = [tokens.patches for tokens in split if isinstance(tokens, Tokens)]
    return found


def read_photograph(folder: Path, path: str, record: Mapping[str, Any]) -> Photograph | str:
    """Read a source image and turn it as its manifest row records.

    Args:
        folder: root of the images; nothing outside it is read.
        path: path of the image below it, from the image list.
        record: manifest row.

    Returns:
        The photograph, or the reason why it cannot be shown.

    Raises:
        errors.MissingExtra: pillow is not installed.
    """
    if record.get("crop_height") is None:
        return "no crop: the row has no pixels"
    try:
        from PIL import Image
    except ImportError as error:
        raise errors.MissingExtra(f"pictures need pillow. Run: {INSPECT_EXTRA}") from error
    try:
        with open_below(folder, path) as file, Image.open(file) as opened:
            image = _upright(opened).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # whatever damaged bytes make a decoder raise
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


def _upright(image: "Image") -> "Image":
    """Apply the EXIF orientation; EXIF that cannot be read is ignored, as extraction does."""
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:
        return image


def _images_folder(dataset: Dataset, given: Path | None) -> Path | str:
    """Return the folder of the source images, or the reason why there is none."""
    if given is not None:
        if not given.is_dir():
            raise errors.MissingFile(f"folder of images '{given}' does not exist. Give the root of '{dataset.name}'")
        return given
    recorded = dataset.source.get("root")
    if isinstance(recorded, str) and Path(recorded).is_dir():
        return Path(recorded)
    return "source photograph: pass --images FOLDER"


def _read(dataset: Dataset, array: str, rows: Sequence[int]) -> list[npt.NDArray[Any] | str]:
    """Return for each row its values, or the reason why it cannot be shown."""
    reasons = _reasons_not_ok(dataset, array, rows)
    return [reasons[row] if row in reasons else dataset.read([row], [array])[array][0] for row in rows]


def _reasons_not_ok(dataset: Dataset, array: str, rows: Sequence[int]) -> dict[int, str]:
    reasons: dict[int, str] = {}
    with closing(ThreadTeam(dataset.storage.read_threads)) as team:
        for part, places in by_part(dataset, rows):
            here = [rows[place] - part.first_row for place in places]
            if array != PIXELS and array not in part.teachers:  # a part that was added later
                reasons |= dict.fromkeys((row + part.first_row for row in here), NOT_MADE)
            elif part.array(array).layout is not None:  # without trailers it was not written by codistill
                reasons |= {row + part.first_row: reason for row, reason in _reasons_of(part, array, here, team)}
    return reasons


def _reasons_of(part: Dataset, array: str, rows: Sequence[int], team: ThreadTeam) -> Iterator[tuple[int, str]]:
    status = RowStatus(part, array)
    failed = status.read_shards({row // part.shard_rows for row in rows}, team)
    for row in rows:
        if status.values[row] == FAILED:
            yield row, f"failed: {failed.get(row, 'no reason recorded')}"
        elif status.values[row] == MISSING:
            yield row, NOT_MADE


def _split(values: npt.NDArray[Any] | str, info: TeacherInfo) -> Tokens | str:
    if isinstance(values, str):
        return values
    patches = values[info.prefix_tokens :].reshape(*info.patch_grid, info.channels)
    if info.code is not None and info.code.subset is not None:
        patches = _filled(patches)
    return Tokens(prefix=values[: info.prefix_tokens], patches=patches)


def _filled(patches: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return patches (rows, cols, C) with those that are not stored, NaN, as the mean of the others in their cell."""
    rows, cols, channels = patches.shape
    cells = patches.reshape(rows // 2, 2, cols // 2, 2, channels)
    means = np.nanmean(cells.astype(np.float32), axis=(1, 3), keepdims=True)
    return np.where(np.isnan(cells), means, cells).astype(patches.dtype).reshape(patches.shape)


def _record(dataset: Dataset, row: int) -> dict[str, Any]:
    """Return the manifest row; empty where there is none."""
    if dataset.array(PIXELS).layout is None:
        return {}
    ((part, _),) = by_part(dataset, [row])
    number = row - part.first_row
    try:
        trailer = part.read_trailer(PIXELS, number // part.shard_rows)
    except errors.MissingShard:
        return {}
    table = trailer.manifest()
    if table is None:
        return {}
    return dict(in_whole(table.slice(number - trailer.rows.start, 1), part).to_pylist()[0])
