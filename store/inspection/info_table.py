"""Table of `codistill store info` for a terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from store.common.text import human_bytes
from store.format.schema import json_bytes
from store.inspection.code_info import CodeInfo
from store.inspection.health import is_well, sentence
from store.inspection.info import ArrayInfo, CacheInfo, Cell, DatasetInfo

SHORT_DIGEST = 12
GLYPHS = {"full": "█", "part": "▒", "unsealed": "▓", "none": "·"}
CODES_LEGEND = (
    "codes, patch tokens: noise = variance of the error over that of the tokens; slope of decoded on true values, 1 is "
    "unbiased; cosine of decoded and true tokens"
)
PLAIN_GLYPHS = {"full": "#", "part": "+", "unsealed": "?", "none": "."}


def render(info: CacheInfo, console: Console, *, identities: bool = False) -> None:
    """Print the summary of a cache.

    Args:
        info: summary, from `store.inspection.info.inspect`.
        console: terminal or file to print to.
        identities: also print every teacher's identity in full.
    """
    glyphs = GLYPHS if console.encoding.lower().startswith("utf") else PLAIN_GLYPHS
    console.print(Group(*_parts(info, glyphs, ascii_only=glyphs is PLAIN_GLYPHS, identities=identities)))


def _parts(info: CacheInfo, glyphs: dict[str, str], *, ascii_only: bool, identities: bool) -> Iterator[RenderableType]:
    recipe = ", ".join(f"{key} {value}" for key, value in sorted(info.recipe.items()) if not isinstance(value, dict))
    yield Text(sentence(info), style="bold green" if is_well(info) else "bold yellow")
    shards = sum(array.shards_present for dataset in info.datasets for array in dataset.arrays)
    size = human_bytes(info.stored_bytes)
    yield Text.from_markup(f"[bold]cache {escape(info.location)}[/bold]  {size} in {shards:,} shards  uuid {info.uuid}")
    yield Text(f"recipe: {recipe}", style="dim")
    if not info.datasets:
        return
    yield _datasets(info.datasets, glyphs, ascii_only=ascii_only)
    yield Text(_legend(info, glyphs), style="dim")
    if info.teachers:
        yield _teachers(info, ascii_only=ascii_only)
    if any(array.code for dataset in info.datasets for array in dataset.arrays):
        yield _codes(info.datasets, ascii_only=ascii_only)
        yield Text(CODES_LEGEND, style="dim")
    yield from (Text(note, style="yellow") for note in _notes(info))
    if identities:
        for teacher in info.teachers:
            identity = json_bytes(teacher.identity, indent=2).decode()
            yield Text(f"\nidentity of {teacher.name} ({teacher.identity_digest}):\n{identity}")


def _datasets(datasets: tuple[DatasetInfo, ...], glyphs: dict[str, str], *, ascii_only: bool) -> Table:
    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("dataset", "array", "rows in order"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ok", "failed", "missing", "shards", "stored"):
        table.add_column(heading, justify="right", no_wrap=True)
    for dataset in datasets:
        for number, array in enumerate(dataset.arrays):
            last = number == len(dataset.arrays) - 1
            table.add_row(_description(dataset, number), *_cells(array, glyphs), end_section=last)
    return table


def _description(dataset: DatasetInfo, line: int) -> Text:
    """Return the line about a dataset that stands beside its array number `line`: name, group, or images and views."""
    views = f"{dataset.views} view{'s' if dataset.views > 1 else ''}"
    first = f" from {dataset.first_view}" if dataset.first_view else ""
    lines = (
        Text(dataset.name, style="bold"),
        Text(f"{dataset.group}, {dataset.split}", style="dim"),
        Text(f"{dataset.images:,} img x {views}{first}", style="dim"),
    )
    if line == 0 and len(dataset.arrays) < len(lines):
        return Text("\n").join(lines[: 1 + len(lines) - len(dataset.arrays)])
    offset = max(0, len(lines) - len(dataset.arrays))
    return lines[line + offset] if line + offset < len(lines) else Text()


def _cells(array: ArrayInfo, glyphs: dict[str, str]) -> tuple[RenderableType, ...]:
    missing = f"{array.missing:,}" if not array.unsealed else f"{array.missing:,} + {array.unsealed:,} unsealed"
    return (
        Text(array.name),
        Text.assemble(*(_bar_cell(cell, glyphs) for cell in array.bar)),
        Text(f"{array.ok:,}", style="green" if array.ok == array.rows else ""),
        Text(f"{array.failed:,}", style="red" if array.failed else "dim"),
        Text(missing, style="yellow" if array.missing or array.unsealed else "dim"),
        Text(f"{array.shards_present:,}/{array.shards:,}"),
        Text(human_bytes(array.stored_bytes)),
    )


def _bar_cell(cell: Cell, glyphs: dict[str, str]) -> tuple[str, str]:
    style = "red" if cell.failed else "green"
    if cell.done >= 1.0:
        return glyphs["full"], style
    if cell.unsealed > 0:
        return glyphs["unsealed"], "cyan"
    return (glyphs["part"], style if cell.failed else "yellow") if cell.done > 0 else (glyphs["none"], "dim")


def _legend(info: CacheInfo, glyphs: dict[str, str]) -> str:
    meaning = {"full": "done", "part": "partly", "none": "missing"}
    arrays = [array for dataset in info.datasets for array in dataset.arrays]
    if any(array.unsealed for array in arrays):
        meaning["unsealed"] = "stored, not sealed"
    failed = "; red: some failed (codistill store failures)" if any(array.failed for array in arrays) else ""
    return "  ".join(f"{glyphs[name]} {word}" for name, word in meaning.items()) + failed


def _teachers(info: CacheInfo, *, ascii_only: bool) -> Table:
    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("teacher", "own groups", "tokens", "identity", "in datasets"):
        table.add_column(heading, no_wrap=heading not in ("in datasets", "own groups"))
    for teacher in info.teachers:
        everywhere = len(teacher.datasets) == len(info.datasets) > 1
        grid = f"{teacher.patch_grid[0]} x {teacher.patch_grid[1]}"
        prefix = f"{teacher.prefix_tokens} + " if teacher.prefix_tokens else ""
        table.add_row(
            Text(teacher.name, style="bold"),
            ", ".join(teacher.groups) or "-",
            f"({prefix}{grid}) x {teacher.channels}",
            teacher.identity_digest[:SHORT_DIGEST] + (f" ({teacher.random_note})" if teacher.random_note else ""),
            "all" if everywhere else ", ".join(teacher.datasets),
        )
    return table


def _codes(datasets: tuple[DatasetInfo, ...], *, ascii_only: bool) -> Table:
    """Return a line for each dataset and teacher whose tokens are stored in a code."""
    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("codes of", "in dataset"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ratio", "bytes a row", "patches", "noise", "slope", "worst channel", "cosine", "1st percentile"):
        table.add_column(heading, justify="right")
    for dataset in datasets:
        for array in dataset.arrays:
            if array.code is not None:
                table.add_row(Text(array.name, style="bold"), dataset.name, *_code_cells(array.code))
    return table


def _code_cells(code: CodeInfo) -> tuple[str, ...]:
    quality = code.patch
    stored = "all" if code.stored_patches == code.patches else f"{code.stored_patches} of {code.patches}"
    size = (f"{code.ratio:g}x", f"{code.row_bytes:,}", stored)
    if quality is None:
        return (*size, *["not sealed", "", "", "", ""])
    slopes, cosines = (quality.slope, quality.worst_slope), (quality.cosine_mean, quality.cosine_p1)
    return (*size, f"{quality.noise:.4f}", *(f"{value:.3f}" for value in (*slopes, *cosines)))


def _notes(info: CacheInfo) -> Iterator[str]:
    names = [teacher.name for teacher in info.teachers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"teacher '{name}' is not the same network in all datasets: see the identities (--identities)"
    digests: dict[str, set[str]] = {}
    for array in (array for dataset in info.datasets for array in dataset.arrays if array.code is not None):
        digests.setdefault(array.name, set()).add(array.code.digest if array.code else "")
    for name in sorted(name for name, found in digests.items() if len(found) > 1):
        yield f"teacher '{name}' is stored in different codes: a student cannot be trained on all of its datasets"
    for dataset in info.datasets:
        for array in dataset.arrays:
            yield from (f"{dataset.name}/{array.name}: {note}" for note in array.notes)
