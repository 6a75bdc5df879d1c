"""Numbers about guessed datasets: how many images tar and Parquet files hold, and how large images are."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extract.init.guess import Guess
from store import errors
from store.common.regular_files import open_below

COUNTED_FILES = 64  # tar or Parquet files of a dataset that are opened; of more, the number of images is estimated
MEASURED_IMAGES = 32
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes", "content")
REFUSED = "links that lead nowhere or out of the dataset's root, or no regular files: they will not be opened"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers about one dataset.

    Attributes:
        images: number of images that can be opened; None if it is unknown.
        exact: whether all files were counted.
        sizes_px: (width, height) of some images, as their headers say.
        column: column of Parquet files that holds images; empty for other kinds.
        problem: why the dataset cannot be extracted as it is; empty if it can.
    """

    images: int | None
    exact: bool = True
    sizes_px: tuple[tuple[int, int], ...] = ()
    column: str = ""
    problem: str = ""


def measure(guess: Guess, on_file: Callable[[], object]) -> Numbers:
    """Count and measure the images of a dataset; what cannot be read is told, not raised.

    Args:
        guess: dataset.
        on_file: called once for every file that is opened.
    """
    if guess.kind == "images":
        step = max(1, len(guess.sample) // MEASURED_IMAGES)
        sizes = [_size(guess.root, path) for path in guess.sample[::step][:MEASURED_IMAGES]]
        images = guess.files - guess.refused
        return Numbers(
            images=images,
            sizes_px=tuple(size for size in sizes if size is not None),
            problem="" if images else f"its {guess.files:,} images are {REFUSED}",
        )
    chosen = guess.sample[:: max(1, -(-len(guess.sample) // COUNTED_FILES))]
    column = ""
    try:
        if guess.kind == "parquet":
            column = _image_column(guess.root, chosen[0])
            if not column:
                return Numbers(images=None, problem=f"no column of '{chosen[0]}' holds the bytes of images")
        count = sum(_count(guess, path, on_file) for path in chosen)
    except (errors.CodistillError, OSError) as error:
        return Numbers(images=None, column=column, problem=str(error))
    problem = "" if count else "no images in it"
    if len(chosen) < len(guess.sample):
        return Numbers(images=count * len(guess.sample) // len(chosen), exact=False, column=column, problem=problem)
    return Numbers(images=count, column=column, problem=problem)


def _count(guess: Guess, path: str, on_file: Callable[[], object]) -> int:
    """Return the number of images in one tar or Parquet file."""
    on_file()
    if guess.kind == "tar":
        from extract.sources.tar import scan

        with open_below(guess.root, path) as file:
            return len(scan(file, f"tar '{path}'", threading.Event()).members)
    from extract.sources.parquet_columns import ParquetColumns

    with ParquetColumns(open_below(guess.root, path), f"Parquet file '{path}'") as opened:
        return sum(opened.group_rows)


def _image_column(root: Path, path: str) -> str:
    """Return the column of a Parquet file that holds images; empty if none does.

    Raises:
        errors.InvalidInput: it is no Parquet file.
    """
    from extract.sources.parquet_columns import ParquetColumns, is_bytes

    with ParquetColumns(open_below(root, path), f"Parquet file '{path}'") as opened:
        names = [
            name
            for name in opened.schema.names
            if is_bytes(opened.type_of(name)) or is_bytes(opened.type_of(f"{name}.bytes"))
        ]
    known = [name for wanted in IMAGE_COLUMNS for name in names if name.lower() == wanted]
    return next(iter([*known, *names]), "")


def _size(root: Path, path: str) -> tuple[int, int] | None:
    """Return width and height that an image's header tells, px; None if they cannot be read."""
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with open_below(root, path) as file, Image.open(file) as image:
            return image.size
    except MemoryError:
        raise
    except Exception:  # whatever damaged bytes make a decoder raise
        return None
