"""What is recorded of single rows: manifest row, status and reasons, path; from the trailers of their shards.

A trailer holds all of it for its shard, sealed or not, so that a page of rows reads a few small pieces of files however
large the cache is. Where an array has no trailers (compressed without loss, or not written by codistill) the sealed
tables are asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

import store
from eval.view.image_paths import image_path, lie_together
from eval.view.opened import Opened
from eval.view.parts import DatasetPart, by_part, parts_of
from eval.view.shards import ShardRecord, shard_record
from store import errors
from store.common.threads import Task, ThreadTeam
from store.format.schema import FAILED, MISSING, OK, PIXELS

STATUS_NAMES = {MISSING: "missing", OK: "ok", FAILED: "failed"}
DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """One row.

    Attributes:
        path: path of its image, empty if not known.
        view: number of the view.
        status: `ok`, `failed`, `missing` or `damaged`, by array.
        reasons: why not ok, by array.
        columns: manifest row; empty where there is none.
    """

    path: str
    view: int
    status: dict[str, str]
    reasons: dict[str, str]
    columns: dict[str, Any]


def records(opened: Opened, dataset: store.Dataset, rows: Sequence[int]) -> list[RowRecord]:
    """Return the records of rows, in their order."""
    found: dict[int, RowRecord] = {}
    for part, numbers in by_part(parts_of(opened, dataset.name), rows):
        found |= _records(opened, part, sorted(set(numbers)))
    return [found[row] for row in rows]


def _records(opened: Opened, part: DatasetPart, rows: Sequence[int]) -> dict[int, RowRecord]:
    """Return records by row of the whole dataset, of rows of one part."""
    stored, arrays = part.stored, [PIXELS, *opened.listing().teachers[part.dataset]]
    shards = sorted({row // stored.shard_rows for row in rows})
    held = [array for array in arrays if array in part.arrays]
    with_trailers = [array for array in held if stored.array(array).layout is not None]
    known = _shard_records(opened, stored, with_trailers, shards)
    foreign = {array: _known_status(opened, stored, array) for array in held if array not in with_trailers}
    found = {}
    for row in rows:
        status, reasons = {}, {}
        for array in arrays:
            if array in foreign:
                sealed = foreign[array]
                status[array], reason = "ok" if sealed is None else STATUS_NAMES[int(sealed[row])], ""
            else:
                status[array], reason = _state(known.get((array, row // stored.shard_rows)), row)
            if reason:
                reasons[array] = reason
        columns = _columns(known.get((PIXELS, row // stored.shard_rows)), row)
        if not columns and PIXELS in foreign:
            columns = _sealed_columns(stored, row)
        path = columns.get("path") or image_path(opened, stored, row // stored.views)
        found[row + part.first_row] = RowRecord(
            path=path,
            view=stored.first_view + row % stored.views,
            status=status,
            reasons=reasons,
            columns=_numbered(columns, part),
        )
    return found


def brief_records(opened: Opened, dataset: store.Dataset, rows: Sequence[int]) -> list[RowRecord]:
    """Return paths, views and status of rows, in their order, for a page of many: no reasons, no columns.

    Where a row is sealed its status is that of the seal; where it has no pixels, and those around it are not shown
    either, its path is not looked up.
    """
    found: dict[int, RowRecord] = {}
    for part, numbers in by_part(parts_of(opened, dataset.name), rows):
        found |= _brief(opened, part, sorted(set(numbers)))
    return [found[row] for row in rows]


def _brief(opened: Opened, part: DatasetPart, rows: Sequence[int]) -> dict[int, RowRecord]:
    stored = part.stored
    arrays = [PIXELS, *opened.listing().teachers[part.dataset]]
    sealed = {array: _known_status(opened, stored, array) for array in arrays if array in part.arrays}
    has_trailers = {array: stored.array(array).layout is not None for array in sealed}
    shards = {array: _not_sealed(status, rows, stored.shard_rows) for array, status in sealed.items()}
    shards[PIXELS] = sorted({row // stored.shard_rows for row in rows})  # for the paths
    known: dict[tuple[str, int], ShardRecord] = {}
    for array in sealed:
        if has_trailers[array]:
            known |= _shard_records(opened, stored, [array], shards[array])
    together = lie_together(opened, stored, [row // stored.views for row in rows])
    found = {}
    for row in rows:
        shard, status = row // stored.shard_rows, {}
        for array in arrays:
            states = sealed.get(array)
            if states is not None and states[row] != MISSING:
                status[array] = STATUS_NAMES[int(states[row])]
            elif has_trailers.get(array, True):
                status[array] = _state(known.get((array, shard)), row)[0]
            else:
                status[array] = "ok"  # not written by codistill, without a status
        record = known.get((PIXELS, shard))
        path = "" if record is None else record.path(row)
        if not path and together:
            path = image_path(opened, stored, row // stored.views)
        view = stored.first_view + row % stored.views
        found[row + part.first_row] = RowRecord(path=path, view=view, status=status, reasons={}, columns={})
    return found


def _not_sealed(status: npt.NDArray[np.uint8] | None, rows: Sequence[int], shard_rows: int) -> list[int]:
    """Return the shards of rows that no seal covers."""
    numbers = np.asarray(rows)
    missing = numbers if status is None else numbers[status[numbers] == MISSING]
    return [int(shard) for shard in np.unique(missing // shard_rows)]


def _numbered(columns: dict[str, Any], part: DatasetPart) -> dict[str, Any]:
    """Return a manifest row with the numbers and the name of the whole dataset."""
    if not columns:
        return columns
    numbers = {"row": columns["row"] + part.first_row, "image_index": columns["image_index"] + part.first_image}
    return columns | numbers | {"dataset": part.dataset}


def sealed_status(opened: Opened, dataset: store.Dataset, array: str) -> npt.NDArray[np.uint8]:
    """Return the sealed status of every row of a part; kept in memory.

    Raises:
        errors.NotSealed: the message names the command.
    """
    return opened.memory.get_or_make(
        ("status", dataset.name, array), lambda: dataset.status(array), lambda status: int(status.nbytes)
    )


def _known_status(opened: Opened, stored: store.Dataset, array: str) -> npt.NDArray[np.uint8] | None:
    try:
        return sealed_status(opened, stored, array)
    except (errors.NotSealed, errors.Damaged):
        return None


def _shard_records(
    opened: Opened, dataset: store.Dataset, arrays: Sequence[str], shards: Sequence[int]
) -> dict[tuple[str, int], ShardRecord]:
    wanted = [(array, shard) for array in arrays for shard in shards]
    found: dict[tuple[str, int], ShardRecord] = {}

    def read(array: str, shard: int) -> None:
        found[array, shard] = shard_record(opened, dataset, array, shard)

    tasks: list[Task] = []
    for array, shard in wanted:
        known = opened.memory.get(("trailer", dataset.name, array, shard))
        if known is not None:
            found[array, shard] = known
        else:
            tasks.append(partial(read, array, shard))
    if len(tasks) > 1:
        team = ThreadTeam(min(16, dataset.storage.read_threads))
        try:
            team.run(tasks)
        finally:
            team.close()
    elif tasks:
        tasks[0]()
    return found


def _state(record: ShardRecord | None, row: int) -> tuple[str, str]:
    """Return status and reason of a row; None stands for a part without the array."""
    if record is not None and record.damage:
        return DAMAGED, record.damage
    if record is None or not len(record.status):
        return STATUS_NAMES[MISSING], "not made yet"
    status = STATUS_NAMES[int(record.status[row - record.start])]
    return status, record.errors.get(row, "no reason recorded") if status == STATUS_NAMES[FAILED] else ""


def _columns(record: ShardRecord | None, row: int) -> dict[str, Any]:
    table = None if record is None else record.manifest()
    return {} if record is None or table is None else dict(table.slice(row - record.start, 1).to_pylist()[0])


def _sealed_columns(dataset: store.Dataset, row: int) -> dict[str, Any]:
    try:
        table = dataset.manifest(filter=pc.field("row") == row)
    except (errors.NotSealed, errors.Damaged):
        return {}
    return dict(table.to_pylist()[0]) if table.num_rows else {}
