"""Plans as tables and sentences: one plan, or several choices of image size and views side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from rich.console import JustifyMethod
from rich.table import Table

from extract.job.folder_sizes import many_shards_note
from extract.plan.plan import ArrayPlan, DatasetPlan, Plan, Split
from store import errors
from store.common.text import human_bytes, human_duration
from store.format.schema import PIXELS

CATALOGUE_VALUE = "catalogue"  # stands for the catalogue's own value


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Values planned instead of the catalogue's.

    Attributes:
        image_size: side of the views, px; None for the catalogue's.
        views: views of every training dataset; None for the catalogue's.
    """

    image_size: int | None
    views: int | None


def parse_choices(image_sizes: str, views: str) -> list[Choice]:
    """Return every combination of values such as `336,448` and `1,catalogue`; an empty text is the catalogue's own.

    Raises:
        errors.InvalidInput: anything but whole numbers above 0 and `catalogue`.
    """
    combined = product(_numbers(image_sizes, option="--image-size"), _numbers(views, option="--views"))
    return [Choice(image_size=px, views=count) for px, count in combined]


def dataset_table(plan: Plan) -> Table:
    """Table of one line for each dataset, and their sum."""
    images, rows = sum(d.images for d in plan.datasets), sum(d.rows for d in plan.datasets)
    shards = sum(dataset.shards for dataset in plan.datasets)
    footers = {
        "dataset": "all",
        "group": "",
        "split": "",
        "images": f"{images:,}",
        "views": "",
        "rows": f"{rows:,}",
        "shards": f"{shards:,}",
        "shards there": f"{sum(sum(dataset.present.values()) for dataset in plan.datasets):,}",
    }
    table = _empty_table("datasets", footers, left=("dataset", "group", "split"))
    for dataset in plan.datasets:
        table.add_row(
            dataset.entry.name,
            dataset.entry.group,
            dataset.entry.split,
            _images(dataset),
            str(dataset.entry.views),
            f"{dataset.rows:,}",
            f"{dataset.shards:,}",
            f"{sum(dataset.present.values()):,}",
        )
    return table


def cost_table(plan: Plan) -> Table:
    """Table of the bytes of each array of each dataset, and how much of them is left."""
    footers = {"dataset": "all"} | {array.array: _size(array, array.bytes_total) for array in plan.arrays}
    footers |= {
        "all": human_bytes(plan.bytes_total),
        "left": human_bytes(plan.bytes_left),
        "time left": _time_left(plan.arrays),
    }
    table = _empty_table("bytes of each array", footers, left=("dataset",))
    for dataset in plan.datasets:
        rows, left, split = dataset.rows, dataset.rows_left, dataset.entry.split
        table.add_row(
            dataset.entry.name,
            *(_size(array, array.bytes_of(rows, split)) for array in plan.arrays),
            human_bytes(sum(array.bytes_of(rows, split) for array in plan.arrays)),
            human_bytes(sum(array.bytes_of(left[array.array], split) for array in plan.arrays)),
            _time_left(plan.arrays, left),
        )
    return table


def array_table(plan: Plan) -> Table:
    """Table of one line for each array, and their sum."""
    footers = {"array": "all", "stored as": "", "bytes per row": f"{_row_bytes(plan, 'train'):,}"}
    if any(dataset.entry.split == "val" for dataset in plan.datasets):
        footers |= {"of split val": f"{_row_bytes(plan, 'val'):,}"}
    footers |= {"bytes": human_bytes(plan.bytes_total), "left": human_bytes(plan.bytes_left)}
    footers |= {"rows/s": "", "time left": _time_left(plan.arrays)}
    table = _empty_table("arrays", footers, left=("array", "stored as"))
    for array in plan.arrays:
        sizes = [array.row_bytes["train"], *([array.row_bytes["val"]] if "of split val" in footers else [])]
        table.add_row(
            array.array,
            plan.recipe.pixels if array.array == PIXELS else "fp16" if array.ratio is None else f"{array.ratio:g}x",
            *("?" if size is None else f"{size:,}" for size in sizes),
            _size(array, array.bytes_total),
            _size(array, array.bytes_left),
            "?" if array.rows_per_second is None else f"{array.rows_per_second:,.1f}",
            _time_left([array]),
        )
    return table


def sentences(plan: Plan) -> Iterator[str]:
    """Sentences below the tables: counts that differ, sizes and times that are unknown, many files, space."""
    yield from _count_sentences(plan.datasets)
    unknown = [array.array for array in plan.arrays if not array.known_size]
    if unknown:
        yield f"size unknown, neither weights nor a known file name: {', '.join(unknown)}"
    if plan.random_note:
        yield plan.random_note
    rows_of = {dataset.entry.name: dataset.rows for dataset in plan.datasets}
    note = many_shards_note(rows_of, shard_rows=plan.recipe.shard_rows, image_size=plan.image_size)
    if note is not None:
        yield note
    if any(array.seconds_left is None and any(array.rows_left.values()) for array in plan.arrays):
        yield "time unknown: `extract plan` measures it where images and weights are, or takes --rows-per-second"
    if plan.free_bytes is not None:
        short = plan.bytes_left - plan.free_bytes
        enough = f"{human_bytes(short)} too little" if short > 0 else "enough"
        free, left = human_bytes(plan.free_bytes), human_bytes(plan.bytes_left)
        yield f"free at the target: {free}, to be written: {left}: {enough}"


def choice_table(plans: Sequence[Plan]) -> Table:
    """Table of one line for each choice: rows, bytes of each array, of all tokens and of everything."""
    names = ["image size", "views", "rows", *(array.array for array in plans[0].arrays), "all tokens", "all"]
    table = _empty_table("choices", dict.fromkeys(names, ""), left=(), footer=False)
    for plan in plans:
        tokens = sum(array.bytes_total for array in plan.arrays if array.array != PIXELS)
        views = sorted({dataset.entry.views for dataset in plan.datasets})
        table.add_row(
            str(plan.image_size),
            "/".join(map(str, views)),
            f"{plan.rows:,}",
            *(_size(array, array.bytes_total) for array in plan.arrays),
            human_bytes(tokens),
            human_bytes(plan.bytes_total),
        )
    return table


def _count_sentences(datasets: Sequence[DatasetPlan]) -> Iterator[str]:
    guessed = sum(_is_guess(dataset) for dataset in datasets)
    if guessed:
        yield f"* expected by the catalogue, not counted: {guessed} of {len(datasets)} datasets"
    for dataset in datasets:
        name, count, expected = dataset.entry.name, dataset.count, dataset.entry.expected_images
        if count.problem is not None:
            yield f"'{name}' cannot be listed: {count.problem}"
        elif count.images is None:
            yield f"'{name}': not counted, its images are not here and no number is expected"
        elif expected not in (None, count.images):
            yield f"'{name}': {count.images:,} images, expected {expected:,}"


def _is_guess(dataset: DatasetPlan) -> bool:
    return dataset.count.origin == "expected" and dataset.count.images is not None


def _images(dataset: DatasetPlan) -> str:
    return "?" if dataset.count.images is None else f"{dataset.images:,}" + "*" * _is_guess(dataset)


def _size(array: ArrayPlan, size: int) -> str:
    return human_bytes(size) if array.known_size else "?"


def _row_bytes(plan: Plan, split: Split) -> int:
    return sum(array.row_bytes[split] or 0 for array in plan.arrays)


def _time_left(arrays: Sequence[ArrayPlan], rows_left: Mapping[str, int] | None = None) -> str:
    """Time for these arrays one after another: for the rows left of each, or for the numbers of rows given."""
    left = {array.array: sum(array.rows_left.values()) for array in arrays} if rows_left is None else rows_left
    seconds = [array.seconds_of(left[array.array]) for array in arrays]
    known = [each for each in seconds if each is not None]
    return human_duration(sum(known)) if len(known) == len(seconds) else "?"


def _empty_table(title: str, footers: Mapping[str, str], *, left: Sequence[str], footer: bool = True) -> Table:
    """Table without lines, from columns and their sums; the columns in `left` are aligned to the left."""
    table = Table(title=title, title_justify="left", show_footer=footer)
    for name, total in footers.items():
        side: JustifyMethod = "left" if name in left else "right"
        table.add_column(name, footer=total, justify=side, no_wrap=True)
    return table


def _numbers(text: str, *, option: str) -> list[int | None]:
    parts = [part.strip() for part in text.split(",") if part.strip()] or [CATALOGUE_VALUE]
    for part in parts:
        if part != CATALOGUE_VALUE and not (part.isdecimal() and int(part)):
            raise errors.InvalidInput(
                f"{option} {part}: expected whole numbers above 0 or '{CATALOGUE_VALUE}', with commas"
            )
    return [None if part == CATALOGUE_VALUE else int(part) for part in parts]
