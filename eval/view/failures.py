"""Rows that failed, counted by dataset, array and kind of reason, with the first of each.

Tokens that failed only because there were no pixels are left out: the pixels say why.
"""

from typing import Any

import numpy as np

import store
from eval.view.opened import Opened
from eval.view.records import shard_record
from eval.view.selection import statuses
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
            if dataset.array(array).layout is not None:
                found += _of_array(opened, dataset, array)
    return found


def _of_array(opened: Opened, dataset: store.Dataset, array: str) -> list[dict[str, Any]]:
    failed = np.flatnonzero(statuses(opened, dataset, array) == FAILED)
    shards = np.unique(failed // dataset.shard_rows)
    by_kind: dict[str, dict[str, Any]] = {}
    for shard in shards[:MOST_SHARDS].tolist():
        for row, reason in sorted(shard_record(opened, dataset, array, shard).errors.items()):
            kind = reason_kind(reason)
            if array != PIXELS and kind == NO_PIXELS:
                continue
            entry = by_kind.setdefault(
                kind,
                {"dataset": dataset.name, "array": array, "reason": kind, "example": reason, "count": 0, "rows": []},
            )
            entry["count"] += 1
            if len(entry["rows"]) < ROWS_SHOWN:
                entry["rows"].append(row)
    if len(shards) > MOST_SHARDS:
        for entry in by_kind.values():
            entry["count"] = round(entry["count"] * len(shards) / MOST_SHARDS)
            entry["about"] = True
    return sorted(by_kind.values(), key=lambda entry: (-entry["count"], entry["reason"]))
