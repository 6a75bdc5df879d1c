"""Rows that failed, counted by dataset, array and kind of reason, with the first of each.

Tokens that failed only because there were no pixels are left out: the pixels say why.
"""

from typing import Any

import numpy as np

import store
from eval.view.opened import Opened
from eval.view.parts import parts_of
from eval.view.selection import statuses
from eval.view.shards import shard_record
from store.format.manifest import reason_kind
from store.format.schema import FAILED, PIXELS

ROWS_SHOWN = 12
MOST_SHARDS = 512  # of one array; counts of more are scaled from these
NO_PIXELS = "no pixels"


def failures_of(opened: Opened) -> list[dict[str, Any]]:
    """Return dataset, array, reason (its kind), an example of it in full, count, and the first rows of each."""
    found = []
    for dataset in opened.listing().datasets.values():
        for array in (PIXELS, *opened.listing().teachers[dataset.name]):
            found += _of_array(opened, dataset, array)
    return found


def _of_array(opened: Opened, dataset: store.Dataset, array: str) -> list[dict[str, Any]]:
    status = statuses(opened, dataset, array)
    by_kind: dict[str, dict[str, Any]] = {}
    for part in parts_of(opened, dataset.name):
        if array not in part.arrays or part.stored.array(array).layout is None:
            continue
        shards = np.unique(np.flatnonzero(status[part.rows] == FAILED) // part.stored.shard_rows)
        scale = len(shards) / MOST_SHARDS
        for shard in shards[:MOST_SHARDS].tolist():
            for row, reason in sorted(shard_record(opened, part.stored, array, shard).errors.items()):
                kind = reason_kind(reason)
                if array == PIXELS or kind != NO_PIXELS:
                    entry = by_kind.setdefault(kind, _entry(dataset.name, array, reason))
                    entry["count"] += max(1.0, scale)
                    entry["about"] |= scale > 1
                    if len(entry["rows"]) < ROWS_SHOWN:
                        entry["rows"].append(part.first_row + row)
    entries = [entry | {"count": round(entry["count"])} for entry in by_kind.values()]
    return sorted(entries, key=lambda entry: (-entry["count"], entry["reason"]))


def _entry(dataset: str, array: str, reason: str) -> dict[str, Any]:
    names = {"dataset": dataset, "array": array, "reason": reason_kind(reason), "example": reason}
    return names | {"count": 0.0, "about": False, "rows": []}
