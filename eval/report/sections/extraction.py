"""Extraction section: bytes of a row, and rates from the file of `codistill extract run --summary FILE.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.page import Block, Section, TableBlock, TextBlock
from eval.report.run_view import RunView
from eval.report.tables import Cell, Column, Table, bytes_cell, number_cell, text_cell
from store.common.text import human_bytes
from store.errors import InvalidInput, MissingFile
from store.format.layout import CHECKSUM_BYTES


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary of an extraction.

    Raises:
        MissingFile: no such file.
        InvalidInput: the file is not a summary.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        stages_table(summary)
        _stored_bytes(summary)
    except OSError as error:
        raise MissingFile(
            f"extraction summary '{path}' cannot be read ({error.strerror}). Write one with: codistill extract run "
            "CATALOGUE.toml --cache CACHE --summary FILE.json, or leave out --extraction"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"'{path}' is no summary of an extraction ({type(error).__name__}: {error}). Give the file that "
            "codistill extract run --summary wrote"
        ) from None
    return dict(summary)


def section(runs: Sequence[RunView], summary: Mapping[str, Any] | None) -> Section:
    """Show the bytes of a row and the rates of the stages."""
    total = human_bytes(sum(count for _, count, _ in _bytes_per_row(runs[0], summary)))
    blocks: list[Block] = [TableBlock(table=bytes_table(runs[0], summary), title=f"{bytes_title(summary)}: {total}")]
    if summary is None:
        blocks.append(TextBlock(text="No summary of the extraction was given (--extraction FILE.json): no rates here."))
    else:
        blocks.append(TableBlock(table=stages_table(summary), title="Stages"))
    return Section(
        anchor="extraction",
        short="Extraction",
        title="Extraction",
        intro=("The teachers ran over the photographs once; every student is trained from their stored tokens.",),
        blocks=blocks,
    )


def bytes_title(summary: Mapping[str, Any] | None) -> str:
    """Return the title of `bytes_table`: only the extraction knows what JPEG and codes take."""
    return "Bytes of one row" if _stored_bytes(summary) else "Bytes of one row, decoded"


def bytes_table(run: RunView, summary: Mapping[str, Any] | None) -> Table:
    """List the bytes of one row in each array: as stored, or decoded where there is no summary of the extraction."""
    arrays = _bytes_per_row(run, summary)
    total = sum(count for _, count, _ in arrays)
    columns = [
        Column(title="Array"),
        Column(title="Contents"),
        Column(title="Bytes per row", numeric=True),
        Column(title="Share", numeric=True),
    ]
    rows = [
        [text_cell(name), text_cell(shape), bytes_cell(count), number_cell(100 * count / total, digits=1, unit=" %")]
        for name, count, shape in arrays
    ]
    return Table(columns=columns, rows=rows, sortable=False)


def stages_table(summary: Mapping[str, Any]) -> Table:
    """List rows and rates of each stage."""
    columns = [
        Column(title="Stage"),
        Column(title="Rows", numeric=True),
        Column(title="Failed", numeric=True),
        Column(title="Seconds", numeric=True),
        Column(title="Rows/s", numeric=True),
        Column(title="Stored", numeric=True),
        Column(title="Stored per s", numeric=True),
    ]
    rows = [[text_cell(stage["stage"]), *_figures(stage)] for stage in summary["stages"]]
    return Table(columns=columns, rows=rows, sortable=False)


def _bytes_per_row(run: RunView, summary: Mapping[str, Any] | None) -> list[tuple[str, int, str]]:
    """List (array, bytes of one row with its checksum, its shape) of the arrays that training reads."""
    stored, arrays = _stored_bytes(summary), []
    for name, decoded, shape in _decoded_bytes_per_row(run):
        count = stored.get(name) or decoded
        smaller = f", in {decoded / count:.1f} times fewer bytes" if count < decoded else ""
        arrays.append((name, count, shape + smaller))
    return arrays


def _stored_bytes(summary: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the bytes of a stored row by array, nothing if they are not known."""
    return {name: int(count) for name, count in dict((summary or {}).get("bytes_per_row", {})).items()}


def _decoded_bytes_per_row(run: RunView) -> list[tuple[str, int, str]]:
    size = run.description["image_size"]
    times = "\N{MULTIPLICATION SIGN}"
    arrays = [("pixels", size * size * 3 + CHECKSUM_BYTES, f"{size} {times} {size} {times} 3 uint8")]
    for name, info in run.description["teachers"].items():
        tokens = info["prefix_tokens"] + info["patch_grid"][0] * info["patch_grid"][1]
        shape = f"{tokens} tokens {times} {info['channels']} channels float16"
        arrays.append((name, 2 * tokens * info["channels"] + CHECKSUM_BYTES, shape))
    return arrays


def _figures(stage: Mapping[str, Any]) -> list[Cell]:
    stored, rows = stage["stored_bytes"], stage["rows"]
    return [
        number_cell(rows or None, digits=0),
        number_cell(stage["failed"] if rows else None, digits=0),
        number_cell(stage["seconds"], digits=1),
        number_cell(stage["rows_per_second"] or None, digits=1),
        bytes_cell(stored) if stored else number_cell(None),
        text_cell(f"{human_bytes(stage['bytes_per_second'])}/s" if stored else None),
    ]
