"""Several choices of image size and views side by side, before one of them is planned in full."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from rich.table import Table

from extract.display import size
from extract.plan import Plan
from extract.plan_tables import empty_table, repeats_of
from store import errors
from store.schema import PIXELS

AS_IS = "catalogue"  # what is asked for where the catalogue's own value should stay


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is planned instead of the catalogue's; None leaves its own.

    Attributes:
        image_size: of the views, px.
        views: of every training dataset.
    """

    image_size: int | None
    views: int | None


def parse_choices(image_sizes: str, views: str) -> list[Choice]:
    """Every combination of values such as `336,448` and `1,catalogue`; nothing stands for the catalogue's own.

    Raises:
        errors.InvalidInput: other than whole numbers above 0 and `catalogue`.
    """
    combined = product(_numbers(image_sizes, option="--image-size"), _numbers(views, option="--views"))
    return [Choice(image_size=px, views=count) for px, count in combined]


def choice_table(plans: Sequence[Plan]) -> Table:
    """One line for each choice: rows, bytes of each array, of all tokens and of everything."""
    names = ["image size", "views", "rows", *(array.array for array in plans[0].arrays), "all tokens", "all"]
    table = empty_table("choices", dict.fromkeys(names, ""), left=(), footer=False)
    for plan in plans:
        tokens = sum(array.bytes_of(array.rows) for array in plan.arrays if array.array != PIXELS)
        bytes_of_arrays = [size(array.bytes_of(array.rows)) if array.row_bytes else "?" for array in plan.arrays]
        views = sorted({dataset.entry.views for dataset in plan.datasets})
        table.add_row(
            str(plan.image_size),
            "/".join(map(str, views)),
            f"{plan.arrays[0].rows:,}",
            *bytes_of_arrays,
            size(tokens),
            size(plan.bytes_total),
        )
    return table


def choice_sentences(plans: Sequence[Plan]) -> Iterator[str]:
    """How often each row is seen, for each number of views."""
    for plan in plans:
        if plan.image_size == plans[0].image_size and (repeats := repeats_of(plan)):
            yield f"{plan.arrays[0].rows:,} rows: {repeats}"


def _numbers(text: str, *, option: str) -> list[int | None]:
    parts = [part.strip() for part in text.split(",") if part.strip()] or [AS_IS]
    for part in parts:
        if part != AS_IS and not (part.isdecimal() and int(part)):
            raise errors.InvalidInput(f"{option} {part}: expected whole numbers above 0 or '{AS_IS}', with commas")
    return [None if part == AS_IS else int(part) for part in parts]
