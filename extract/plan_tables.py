"""A plan as tables and sentences for people."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import JustifyMethod
from rich.table import Table

from extract.display import duration, size
from extract.plan import DUNE_SAMPLES, ArrayPlan, DatasetPlan, Plan

MEANINGFUL_REPEATS = 10_000  # beyond, a catalogue is a trial and the paper's budget says nothing about it


def dataset_table(plan: Plan) -> Table:
    """One line for each dataset, and their sum."""
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
    table = empty_table("datasets", footers, left=("dataset", "group", "split"))
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
    """Bytes of each array of each dataset, and what is left of them."""
    footers = {"dataset": "all"} | {array.array: _bytes(array, array.rows) for array in plan.arrays}
    footers |= {"all": size(plan.bytes_total), "left": size(plan.bytes_left), "time left": _time_left(plan.arrays)}
    table = empty_table("bytes of each array", footers, left=("dataset",))
    for dataset in plan.datasets:
        rows, left = dataset.rows, dataset.rows_left
        table.add_row(
            dataset.entry.name,
            *(_bytes(array, rows) for array in plan.arrays),
            size(sum(array.bytes_of(rows) for array in plan.arrays)),
            size(sum(array.bytes_of(left[array.array]) for array in plan.arrays)),
            _time_left(plan.arrays, left),
        )
    return table


def array_table(plan: Plan) -> Table:
    """One line for each array, and their sum."""
    footers = {"array": "all", "bytes per row": f"{sum(array.row_bytes or 0 for array in plan.arrays):,}"}
    footers |= {"bytes": size(plan.bytes_total), "left": size(plan.bytes_left)}
    footers |= {"rows/s": "", "time left": _time_left(plan.arrays)}
    table = empty_table("arrays", footers, left=("array",))
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
    """What follows the tables: counts that differ, repeats, space."""
    yield from _counting(plan.datasets)
    if repeats := repeats_of(plan):
        yield repeats
    unknown = [array.array for array in plan.arrays if array.row_bytes is None]
    if unknown:
        yield f"size unknown, neither weights nor a known file name: {', '.join(unknown)}"
    if any(array.seconds_left is None and array.rows_left for array in plan.arrays):
        yield "time unknown: `extract plan` measures it where images and weights are, or takes --rows-per-second"
    if plan.free_bytes is not None:
        short = plan.bytes_left - plan.free_bytes
        enough = f"{size(short)} too little" if short > 0 else "enough"
        yield f"free at the target: {size(plan.free_bytes)}, to be written: {size(plan.bytes_left)}: {enough}"


def _counting(datasets: Sequence[DatasetPlan]) -> Iterator[str]:
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


def repeats_of(plan: Plan) -> str:
    """How often each row is seen in the paper's budget; nothing where that says nothing."""
    repeats = plan.repeats()
    if len(repeats) < 2 or max(repeats.values()) >= MEANINGFUL_REPEATS:
        return ""
    times = ", ".join(f"{group} {count:.1f} times" for group, count in repeats.items())
    return f"in {DUNE_SAMPLES / 1e6:.0f} M training images (the paper's budget) each row is seen: {times}"


def _images(dataset: DatasetPlan) -> str:
    return "?" if dataset.count.images is None else f"{dataset.images:,}" + "*" * _is_guess(dataset)


def _bytes(array: ArrayPlan, rows: int) -> str:
    return "?" if array.row_bytes is None else size(array.bytes_of(rows))


def _time_left(arrays: Sequence[ArrayPlan], rows_left: Mapping[str, int] | None = None) -> str:
    """Of these arrays one after another, or of so many rows of each."""
    left = {array.array: array.rows_left for array in arrays} if rows_left is None else rows_left
    seconds = [array.seconds_of(left[array.array]) for array in arrays]
    known = [each for each in seconds if each is not None]
    return duration(sum(known)) if len(known) == len(seconds) else "?"


def empty_table(title: str, footers: Mapping[str, str], *, left: Sequence[str], footer: bool = True) -> Table:
    """A table without lines: its columns and their sums. `left` are aligned to the left."""
    table = Table(title=title, title_justify="left", show_footer=footer)
    for name, total in footers.items():
        side: JustifyMethod = "left" if name in left else "right"
        table.add_column(name, footer=total, justify=side, no_wrap=True)
    return table
