"""A page of the grid, and one row: what the page asks for, from the selection and the records of rows."""

from collections.abc import Sequence
from typing import Any

from eval.view import images, measures, selection, tokens
from eval.view.opened import Opened, checked_row
from eval.view.parameters import Parameters, finite
from eval.view.records import RowRecord, brief_records, records
from eval.view.selection import Filter
from store import errors

MOST_ROWS = 512
MOST_SAMPLED = 100_000

Listed = tuple[str, int, Any]  # dataset, row, value that it is sorted by


def page_of_rows(opened: Opened, query: Parameters) -> dict[str, Any]:
    """Answer `/api/rows`: rows that meet a filter, or a sample of them, in an order."""
    names = ("dataset", "group", "view", "where", "sql", "status", "reason")
    wanted = Filter(**{name: query.text(name) for name in names})
    offset, limit = query.number("offset", 0), query.number("limit", 60, most=MOST_ROWS)
    count, seed = query.number("sample", 0, most=MOST_SAMPLED), query.number("seed", 0, most=2**31)
    descending = query.choice("order", ("asc", "desc")) == "desc"
    sort = query.text("sort")
    chosen = selection.selected(opened, wanted)
    sample = selection.drawn(chosen, count=count, seed=seed) if count else None
    answer: dict[str, Any] = {"total": len(chosen) if sample is None else len(sample)}
    page: Sequence[Listed]
    if measures.is_measure(sort):
        measured = measures.sorted_rows(opened, chosen, (wanted, count, seed), sort, sample, descending=descending)
        page = measured.rows[offset : offset + limit]
        answer |= {"total": len(measured.rows), **measured.facts}
    elif sort:
        key = (wanted, count, seed)
        page = selection.sorted_page(
            opened, chosen, key, column=sort, descending=descending, offset=offset, limit=limit, among=sample
        )
    else:
        places = selection.page(chosen, offset=offset, limit=limit) if sample is None else sample[offset:][:limit]
        page = [(dataset, row, None) for dataset, row in places]
    return answer | {"rows": _with_records(opened, page)}


def row_of(opened: Opened, dataset: str, row: int) -> dict[str, Any]:
    """Answer `/api/row`: all that is recorded of one row, and the arrays that can be drawn of it."""
    source = opened.dataset(dataset)
    (record,) = records(opened, source, [checked_row(source, row)])
    return {
        "dataset": dataset,
        "row": row,
        "image": record.path,
        "view": record.view,
        "crop": images.crop_of(record),
        "columns": {name: _plain(value) for name, value in record.columns.items()},
        "status": record.status,
        "reasons": record.reasons,
        "has_photograph": images.has_photograph(opened, dataset, record),
        "arrays": _arrays(opened, dataset),
        "previous": row - 1 if row > 0 else None,
        "next": row + 1 if row + 1 < source.rows else None,
    }


def _arrays(opened: Opened, dataset: str) -> list[dict[str, Any]]:
    arrays = []
    for name in tokens.array_names(opened, dataset):
        try:
            shape = tokens.shape_of(opened, dataset, name)
        except errors.CodistillError:  # a run that does not fit this dataset
            continue
        sizes = {"channels": shape.channels, "prefix_tokens": shape.prefix_tokens}
        arrays.append({"name": name, "grid": list(shape.grid)} | sizes)
    return arrays


def _with_records(opened: Opened, page: Sequence[Listed]) -> list[dict[str, Any]]:
    by_dataset: dict[str, list[int]] = {}
    for dataset, row, _ in page:
        by_dataset.setdefault(dataset, []).append(row)
    known: dict[tuple[str, int], RowRecord] = {}
    for dataset, rows in by_dataset.items():
        for row, record in zip(rows, brief_records(opened, opened.dataset(dataset), rows), strict=True):
            known[dataset, row] = record
    return [
        {
            "dataset": dataset,
            "row": row,
            "image": known[dataset, row].path,
            "view": known[dataset, row].view,
            "status": known[dataset, row].status,
            "sort_value": _plain(value),
        }
        for dataset, row, value in page
    ]


def _plain(value: Any) -> Any:
    return finite(value) if isinstance(value, float) else value
