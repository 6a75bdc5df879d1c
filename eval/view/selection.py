"""The rows that the grid lists: of which datasets, under which conditions, in which order; a page is a slice of it.

Without a condition nothing is read: the rows of a dataset are a range. A condition gives numbers of rows, kept in
memory for the pages to come. Of an order the first rows are asked for alone, and the whole of it once somebody
scrolls that far.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import store
from eval.view import queries
from eval.view.manifests import MOST_UNSEALED_SHARDS, manifests_of, unsealed_shards
from eval.view.opened import Opened
from eval.view.parts import DatasetPart, parts_of
from eval.view.records import STATUS_NAMES, sealed_status
from eval.view.shards import shard_record
from store import errors
from store.common.config import near_miss
from store.format.manifest import reason_kind
from store.format.schema import FAILED, MISSING, PIXELS

FIRST_ROWS = 4096
STATUSES = {name: number for number, name in STATUS_NAMES.items()}
FAILED_NAME = STATUS_NAMES[FAILED]
Numbers = range | npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What rows must meet; texts as in the address of the page, empty ones ask for nothing.

    Attributes:
        dataset: name of a dataset.
        group: name of a group of datasets.
        view: number of a view.
        where: condition as in `data.subset`.
        sql: SQL condition.
        status: `ok` (in all arrays), `failed` or `missing` (in any), or `ARRAY:ok` and so on.
        reason: kind of the reason why a row failed, in any array or in that of `status`.
    """

    dataset: str = ""
    group: str = ""
    view: str = ""
    where: str = ""
    sql: str = ""
    status: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one dataset, ascending."""

    dataset: store.Dataset
    rows: Numbers


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Rows of datasets in their natural order.

    Attributes:
        parts: rows by dataset.
        ends: int64 [parts], number of rows up to and with each part.
    """

    parts: tuple[Part, ...]
    ends: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, places: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
        """Return (dataset, row) at places in the order of all rows."""
        numbers = np.searchsorted(self.ends, places, side="right")
        found = []
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            part = self.parts[number]
            before = int(self.ends[number]) - len(part.rows)
            found.append((part.dataset.name, int(part.rows[place - before])))
        return found


def selected(opened: Opened, wanted: Filter) -> Selected:
    """Return the rows that meet a filter; kept in memory.

    Raises:
        errors.CodistillError: the filter is not understood, or reads what is not sealed.
    """
    _check_status(opened, wanted)

    def make() -> Selected:
        parts = tuple(
            Part(dataset=dataset, rows=_rows(opened, dataset, wanted)) for dataset in _datasets(opened, wanted)
        )
        return Selected(parts=parts, ends=np.cumsum([len(part.rows) for part in parts], dtype=np.int64))

    return opened.memory.get_or_make(("selected", wanted), make, _bytes)


def _check_status(opened: Opened, wanted: Filter) -> None:
    """Refuse a status that is none, one of an array that no dataset has, and reasons of rows that did not fail."""
    array, _, name = wanted.status.rpartition(":")
    if wanted.status and name not in STATUSES:
        found = f"found '{wanted.status[:40]}'"
        raise errors.InvalidInput(f"status: expected ok, failed, missing or ARRAY:ok and so on, {found}")
    arrays = sorted({PIXELS}.union(*opened.listing().teachers.values()))
    if array and array not in arrays:
        available = f"available: {', '.join(arrays)[:400]}"
        raise errors.MissingName(f"status: no array '{array[:80]}'{near_miss(array, arrays)}; {available}")
    if wanted.reason and name not in ("", FAILED_NAME):
        raise errors.InvalidInput(f"reason: only failed rows have one, found status '{wanted.status[:40]}'")


def page(selection: Selected, *, offset: int, limit: int) -> list[tuple[str, int]]:
    """Return (dataset, row) of a page in the natural order."""
    return selection.at(np.arange(offset, min(offset + limit, len(selection)), dtype=np.int64))


def drawn(selection: Selected, *, count: int, seed: int) -> list[tuple[str, int]]:
    """Return (dataset, row) of rows drawn without replacement, in the order of the draw."""
    generator = np.random.default_rng(seed)
    total = len(selection)
    if count >= total:
        return selection.at(generator.permutation(total).astype(np.int64))
    places: dict[int, None] = {}
    while len(places) < count:  # a permutation of 20 million rows would take a second
        places.update(dict.fromkeys(generator.integers(0, total, count).tolist()))
    return selection.at(np.array(list(places)[:count], np.int64))


def sorted_page(
    opened: Opened,
    selection: Selected,
    key: Hashable,
    *,
    column: str,
    descending: bool,
    offset: int,
    limit: int,
    among: Sequence[tuple[str, int]] | None = None,
) -> list[tuple[str, int, Any]]:
    """Return (dataset, row, value) of a page in the order of a column.

    Args:
        opened: what is shown.
        selection: rows to sort.
        key: what the selection is of, to keep its order in memory.
        column: column of the manifest.
        descending: whether the largest value comes first.
        offset, limit: place and length of the page.
        among: rows of a sample, to sort these alone.
    """
    whole = offset + limit > FIRST_ROWS
    parts = selection.parts if among is None else _parts_of(selection, among)

    def make() -> queries.Ordered:
        manifests = [
            (number, manifest)
            for number, part in enumerate(parts)
            for manifest in manifests_of(opened, part.dataset.name)
        ]
        chosen = {
            number: np.asarray(part.rows) for number, part in enumerate(parts) if len(part.rows) < part.dataset.rows
        }
        return queries.ordered(
            manifests, column, chosen=chosen, descending=descending, limit=None if whole else FIRST_ROWS
        )

    full_key = ("sorted", key, column, descending, whole)
    order = opened.memory.get_or_make(
        full_key, make, lambda made: int(made.source.nbytes + made.row.nbytes + made.value.nbytes)
    )
    part = slice(offset, offset + limit)
    values = order.value.slice(offset, limit).to_pylist()
    numbers = zip(order.source[part].tolist(), order.row[part].tolist(), values, strict=True)
    return [(parts[source].dataset.name, row, value) for source, row, value in numbers]


def _parts_of(selection: Selected, among: Sequence[tuple[str, int]]) -> tuple[Part, ...]:
    parts = []
    for part in selection.parts:
        rows = sorted(row for dataset, row in among if dataset == part.dataset.name)
        if rows:
            parts.append(Part(dataset=part.dataset, rows=np.array(rows, np.int32)))
    return tuple(parts)


def _datasets(opened: Opened, wanted: Filter) -> list[store.Dataset]:
    listing = opened.listing()
    chosen = [opened.dataset(wanted.dataset)] if wanted.dataset else list(listing.datasets.values())
    if not wanted.group:
        return chosen
    groups = sorted({dataset.group for dataset in listing.datasets.values()})
    if wanted.group not in groups:
        raise errors.MissingName(f"no group '{wanted.group[:80]}'; available: {', '.join(groups)}")
    return [dataset for dataset in chosen if dataset.group == wanted.group]


def _rows(opened: Opened, dataset: store.Dataset, wanted: Filter) -> Numbers:
    rows = _rows_of_view(dataset, wanted.view) if wanted.view else range(dataset.rows)
    status = wanted.status or (FAILED_NAME if wanted.reason else "")
    if not (wanted.where or wanted.sql or status):
        return rows
    mask = np.zeros(dataset.rows, np.bool_)
    mask[rows.start : rows.stop : rows.step] = True
    if status:
        mask &= _with_status(opened, dataset, status, wanted.reason)
    for condition, ask in ((wanted.where, queries.rows_where), (wanted.sql, queries.rows_where_sql)):
        if condition:
            manifests = manifests_of(opened, dataset.name)
            met = np.concatenate([np.asarray(ask(manifest, condition)) for manifest in manifests])
            mask &= _mask(met, dataset.rows)
    return rows if len(rows) == dataset.rows and mask.all() else np.flatnonzero(mask).astype(np.int32)


def _rows_of_view(dataset: store.Dataset, view: str) -> range:
    if not (view.isascii() and view.isdecimal()) or len(view) > 9:
        raise errors.InvalidInput(f"view: expected a number, found '{view[:40]}'")
    place = int(view) - dataset.first_view
    return range(place, dataset.rows, dataset.views) if 0 <= place < dataset.views else range(0)


def _mask(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(count, np.bool_)
    mask[rows[(rows >= 0) & (rows < count)]] = True
    return mask


def _with_status(opened: Opened, dataset: store.Dataset, text: str, reason: str) -> npt.NDArray[np.bool_]:
    array, _, name = text.rpartition(":")
    arrays = [PIXELS, *opened.listing().teachers[dataset.name]]
    if array and array not in arrays:
        return np.zeros(dataset.rows, np.bool_)  # another dataset may have it
    masks = [statuses(opened, dataset, one) == STATUSES[name] for one in ([array] if array else arrays)]
    met = np.logical_and.reduce(masks) if name == "ok" else np.logical_or.reduce(masks)
    if reason:
        met &= _with_reason(opened, dataset, [array] if array else arrays, reason, met)
    return np.asarray(met)


def _with_reason(
    opened: Opened, dataset: store.Dataset, arrays: Sequence[str], reason: str, candidates: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    mask = np.zeros(dataset.rows, np.bool_)
    for part in parts_of(opened, dataset.name):
        stored = part.stored
        held = [array for array in arrays if array in part.arrays and stored.array(array).layout is not None]
        for shard in np.unique(np.flatnonzero(candidates[part.rows]) // stored.shard_rows).tolist():
            for array in held:
                for row, text in shard_record(opened, stored, array, shard).errors.items():
                    mask[part.first_row + row] |= reason_kind(text) == reason
    return mask


def statuses(opened: Opened, dataset: store.Dataset, array: str) -> npt.NDArray[np.uint8]:
    """Return the status of every row: as sealed, and by the trailers of a few shards that are not."""
    found = [_statuses(opened, part, array) for part in parts_of(opened, dataset.name)]
    return found[0] if len(found) == 1 else np.concatenate(found)


def _statuses(opened: Opened, part: DatasetPart, array: str) -> npt.NDArray[np.uint8]:
    stored = part.stored
    if array not in part.arrays:
        return np.full(stored.rows, MISSING, np.uint8)
    try:
        status = sealed_status(opened, stored, array)
    except (errors.NotSealed, errors.Damaged):
        status = np.full(stored.rows, MISSING, np.uint8)
    unsealed = unsealed_shards(opened, stored, array)[:MOST_UNSEALED_SHARDS]
    if unsealed:
        status = status.copy()
        for shard in unsealed:
            record = shard_record(opened, stored, array, shard)
            status[record.start : record.start + len(record.status)] = record.status
    return status


def _bytes(made: Selected) -> int:
    return sum(part.rows.nbytes for part in made.parts if not isinstance(part.rows, range))
