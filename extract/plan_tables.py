"""A plan as tables and sentences for people."""

from collections.abc import Iterator

from rich.console import JustifyMethod
from rich.table import Table

from extract.display import duration, size
from extract.plan import DUNE_SAMPLES, ArrayPlan, DatasetPlan, Plan

MEANINGFUL_REPEATS = 10_000  # beyond, a catalogue is a trial and the paper's budget says nothing about it


def dataset_table(plan: Plan) -> Table:
    """One line for each dataset, and their sum."""
    table = Table(title="datasets", title_justify="left", show_footer=True)
    rows, shards = sum(d.rows for d in plan.datasets), sum(d.shards for d in plan.datasets)
    per_row = sum(array.row_bytes or 0 for array in plan.arrays)
    present = sum(sum(dataset.present.values()) for dataset in plan.datasets)
    footers = ["all", "", "", f"{sum(d.images or 0 for d in plan.datasets):,}", "", f"{rows:,}", f"{shards:,}"]
    footers += [size(rows * per_row), f"{present:,}"]
    names = ("dataset", "group", "split", "images", "views", "rows", "shards", "bytes", "shards there")
    for name, footer in zip(names, footers, strict=True):
        side: JustifyMethod = "left" if name in ("dataset", "group", "split") else "right"
        table.add_column(name, footer=footer, justify=side, no_wrap=True)
    for dataset in plan.datasets:
        table.add_row(
            dataset.entry.name,
            dataset.entry.group,
            dataset.entry.split,
            _images(dataset),
            str(dataset.entry.views),
            f"{dataset.rows:,}",
            f"{dataset.shards:,}",
            size(dataset.rows * per_row),
            f"{sum(dataset.present.values()):,}",
        )
    return table


def array_table(plan: Plan) -> Table:
    """One line for each array, and their sum."""
    table = Table(title="arrays", title_justify="left", show_footer=True)
    hours = [array.seconds_left for array in plan.arrays]
    known = [seconds for seconds in hours if seconds is not None]
    footers = ["all", f"{sum(array.row_bytes or 0 for array in plan.arrays):,}", size(plan.bytes_total)]
    footers += [size(plan.bytes_left), "", duration(sum(known)) if len(known) == len(hours) else "?"]
    names = ("array", "bytes per row", "bytes", "left", "rows/s", "time left")
    for name, footer in zip(names, footers, strict=True):
        table.add_column(name, footer=footer, justify="left" if name == "array" else "right", no_wrap=True)
    for array in plan.arrays:
        table.add_row(*_array_cells(array))
    return table


def sentences(plan: Plan) -> Iterator[str]:
    """What follows the tables: counts that differ, repeats, space."""
    for dataset in plan.datasets:
        expected = dataset.entry.expected_images
        if dataset.images is None:
            yield f"'{dataset.entry.name}': not counted, its images are not here and no number is expected"
        elif expected is not None and dataset.images != expected:
            yield f"'{dataset.entry.name}': {dataset.images:,} images, expected {expected:,}"
    repeats = plan.repeats()
    if len(repeats) > 1 and max(repeats.values()) < MEANINGFUL_REPEATS:
        times = ", ".join(f"{group} {count:.1f} times" for group, count in repeats.items())
        yield f"in {DUNE_SAMPLES / 1e6:.0f} M training images (the paper's budget) each row is seen: {times}"
    unknown = [array.array for array in plan.arrays if array.row_bytes is None]
    if unknown:
        yield f"size unknown, neither weights nor a known file name: {', '.join(unknown)}"
    if any(array.seconds_left is None and array.rows_left for array in plan.arrays):
        yield "time unknown where images or weights are not here: tell rates with --rows-per-second views=900,NAME=250"
    if plan.free_bytes is not None:
        short = plan.bytes_left - plan.free_bytes
        enough = f"{size(short)} too little" if short > 0 else "enough"
        yield f"free at the target: {size(plan.free_bytes)}, to be written: {size(plan.bytes_left)}: {enough}"


def _images(dataset: DatasetPlan) -> str:
    if dataset.images is None:
        return "?"
    return f"{dataset.images:,}" + ("*" if dataset.counted == "expected" else "")


def _array_cells(array: ArrayPlan) -> list[str]:
    return [
        array.array,
        "?" if array.row_bytes is None else f"{array.row_bytes:,}",
        "?" if array.row_bytes is None else size(array.row_bytes * array.rows),
        "?" if array.row_bytes is None else size(array.bytes_left),
        "?" if array.rows_per_second is None else f"{array.rows_per_second:,.1f}",
        "?" if array.seconds_left is None else duration(array.seconds_left),
    ]
