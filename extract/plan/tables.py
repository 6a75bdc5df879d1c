"""Plans as tables and sentences: one plan, or several choices of image size and views side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from rich.console import JustifyMethod
from rich.table import Table

from extract.plan.plan import DUNE_SAMPLES, ArrayPlan, DatasetPlan, Plan
from store import errors
from store.common.text import human_bytes, human_duration
from store.format.schema import PIXELS

MEANINGFUL_REPEATS = 10_000  # a catalogue beyond it is a trial, for which the paper's budget means nothing
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
    footers = {"dataset": "all"} | {array.array: _bytes(array, array.rows) for array in plan.arrays}
    footers |= {
        "all": human_bytes(plan.bytes_total),
        "left": human_bytes(plan.bytes_left),
        "time left": _time_left(plan.arrays),
    }
    table = _empty_table("bytes of each array", footers, left=("dataset",))
    for dataset in plan.datasets:
        rows, left = dataset.rows, dataset.rows_left
        table.add_row(
            dataset.entry.name,
            *(_bytes(array, rows) for array in plan.arrays),
            human_bytes(sum(array.bytes_of(rows) for array in plan.arrays)),
            human_bytes(sum(array.bytes_of(left[array.array]) for array in plan.arrays)),
            _time_left(plan.arrays, left),
        )
    return table


def array_table(plan: Plan) -> Table:
    """Table of one line for each array, and their sum."""
    footers = {"array": "all", "bytes per row": f"{sum(array.row_bytes or 0 for array in plan.arrays):,}"}
    footers |= {"bytes": human_bytes(plan.bytes_total), "left": human_bytes(plan.bytes_left)}
    footers |= {"rows/s": "", "time left": _time_left(plan.arrays)}
    table = _empty_table("arrays", footers, left=("array",))
    for array in plan.arrays:
        table.add_row(
            array.array,
            "?" if array.row_bytes is None else f"{array.row_bytes:,}",
            _bytes(array, array.rows),
            _bytes(array, array.rows_left),
            "?" if array.rows_per_second is None else f"{array.rows_per_second:,.1f}",
            _time_left([array]),
        )
    return table


def sentences(plan: Plan) -> Iterator[str]:
    """Sentences below the tables: counts that differ, repeats, space."""
    yield from _count_sentences(plan.datasets)
    if repeats := _repeats(plan):
        yield repeats
    unknown = [array.array for array in plan.arrays if array.row_bytes is None]
    if unknown:
        yield f"size unknown, neither weights nor a known file name: {', '.join(unknown)}"
    if any(array.seconds_left is None and array.rows_left for array in plan.arrays):
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
        tokens = sum(array.bytes_of(array.rows) for array in plan.arrays if array.array != PIXELS)
        bytes_of_arrays = [human_bytes(array.bytes_of(array.rows)) if array.row_bytes else "?" for array in plan.arrays]
        views = sorted({dataset.entry.views for dataset in plan.datasets})
        table.add_row(
            str(plan.image_size),
            "/".join(map(str, views)),
            f"{plan.arrays[0].rows:,}",
            *bytes_of_arrays,
            human_bytes(tokens),
            human_bytes(plan.bytes_total),
        )
    return table


def choice_sentences(plans: Sequence[Plan]) -> Iterator[str]:
    """Sentences that tell how often each row is seen, for each number of views."""
    for plan in plans:
        if plan.image_size == plans[0].image_size and (repeats := _repeats(plan)):
            yield f"{plan.arrays[0].rows:,} rows: {repeats}"


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


def _repeats(plan: Plan) -> str:
    """Sentence that tells how often each row is seen in the paper's budget; empty where that means nothing."""
    repeats = plan.repeats()
    if len(repeats) < 2 or max(repeats.values()) >= MEANINGFUL_REPEATS:
        return ""
    times = ", ".join(f"{group} {count:.1f} times" for group, count in repeats.items())
    return f"in {DUNE_SAMPLES / 1e6:.0f} M training images (the paper's budget) each row is seen: {times}"


def _images(dataset: DatasetPlan) -> str:
    return "?" if dataset.count.images is None else f"{dataset.images:,}" + "*" * _is_guess(dataset)


def _bytes(array: ArrayPlan, rows: int) -> str:
    return "?" if array.row_bytes is None else human_bytes(array.bytes_of(rows))


def _time_left(arrays: Sequence[ArrayPlan], rows_left: Mapping[str, int] | None = None) -> str:
    """Time for these arrays one after another: for the rows left of each, or for the numbers of rows given."""
    left = {array.array: array.rows_left for array in arrays} if rows_left is None else rows_left
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
