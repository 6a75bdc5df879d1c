"""Samples of rows of a dataset, the same on every call, whose tokens stand for all of them.

A sealed dataset gives usable rows at once; of one that is being extracted, rows of the shards that are there.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import store
from eval.view import tokens
from eval.view.jobs import Progress
from eval.view.opened import Opened
from eval.view.parts import parts_of
from eval.view.records import sealed_status
from eval.view.shards import shard_record
from store import errors
from store.format.schema import OK

TRIED_SHARDS = 32  # of an array without a seal
READ_TOGETHER = 8


def usable_rows(
    opened: Opened, dataset: store.Dataset, arrays: Sequence[str], *, count: int, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Return up to `count` rows that are ok in some arrays, ascending; drawn from all without replacement.

    Args:
        opened: what is shown.
        dataset: dataset of the rows.
        arrays: teachers, and `pixels` where a student shall see them.
        count: number of rows, at most.
        seed: seed of the draw.
    """
    usable = _sealed(opened, dataset, arrays)
    if usable is None:
        usable = _by_trailers(opened, dataset, arrays, seed=seed)
    generator = np.random.default_rng([seed, zlib.crc32(dataset.name.encode())])
    if len(usable) <= count:
        return usable
    return np.sort(usable[generator.choice(len(usable), size=count, replace=False)])


def sample_patches(
    opened: Opened,
    dataset: store.Dataset,
    array: str,
    *,
    rows: npt.NDArray[np.int64],
    patches: int,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Return patches [S, C] of rows, equally many of each row at random places; those not stored are left out.

    Args:
        opened: what is shown.
        dataset: dataset of the rows.
        array: teacher, student or projection.
        rows: rows to read, ok in the array.
        patches: number of patches in all, about.
        progress: told the share of rows that are read.
    """
    shape = tokens.shape_of(opened, dataset.name, array)
    generator = np.random.default_rng(0)
    each = max(1, min(shape.patches, -(-patches // max(1, len(rows)))))
    parts = [np.zeros((0, shape.channels), np.float32)]
    for start in range(0, len(rows), READ_TOGETHER):
        batch = tokens.read_uncached(opened, dataset.name, rows[start : start + READ_TOGETHER].tolist(), array)
        for row in batch[:, shape.prefix_tokens :]:
            stored = row[~np.isnan(row[:, 0])]
            parts.append(stored[generator.permutation(len(stored))[:each]].astype(np.float32))
        if progress is not None:
            progress(min(1.0, (start + READ_TOGETHER) / len(rows)))
    return np.concatenate(parts)


def sample_of(
    opened: Opened, dataset: store.Dataset, array: str, *, rows: int, patches: int, progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """Return patches [S, C] of a sample of rows.

    Raises:
        errors.MissingShard: no row of the array is ok.
    """
    chosen = usable_rows(opened, dataset, needed_arrays(array), count=rows)
    if not len(chosen):
        raise none_usable(f"{dataset.name}/{array}")
    return sample_patches(opened, dataset, array, rows=chosen, patches=patches, progress=progress)


def none_usable(array: str) -> errors.MissingShard:
    """Return the error that no row of an array can be used."""
    return errors.MissingShard(f"no row of '{array}' is ok: all failed, or it is not extracted yet")


def needed_arrays(array: str) -> list[str]:
    """Return the stored arrays that the tokens of an array come from."""
    return ["pixels"] if tokens.parts_of(array) is not None else [array]


def _sealed(opened: Opened, dataset: store.Dataset, arrays: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Return the rows that are ok as sealed; None if none are."""
    usable = [np.zeros(0, np.int64)]
    for part in parts_of(opened, dataset.name):
        try:
            status: Any = np.ones(part.stored.rows, np.bool_)
            for array in arrays:
                status &= sealed_status(opened, part.stored, array) == OK
        except (errors.NotSealed, errors.Damaged, errors.MissingName):
            continue
        usable.append(np.flatnonzero(status) + part.first_row)
    rows = np.concatenate(usable)
    return rows if len(rows) else None


def _by_trailers(opened: Opened, dataset: store.Dataset, arrays: Sequence[str], *, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows that are ok in a few of the shards that all arrays have."""
    usable = [np.zeros(0, np.int64)]
    for part in parts_of(opened, dataset.name):
        stored = part.stored
        if not all(array in part.arrays for array in arrays):
            continue
        if any(stored.array(array).layout is None for array in arrays):
            usable.append(np.arange(stored.rows) + part.first_row)  # not written by codistill: no status, no trailers
            continue
        present = sorted(frozenset.intersection(*(stored.present(array) for array in arrays)))
        for place in np.random.default_rng(seed).permutation(len(present))[:TRIED_SHARDS].tolist():
            found = [shard_record(opened, stored, array, present[place]) for array in arrays]
            if all(len(record.status) for record in found):
                ok = np.logical_and.reduce([record.status == OK for record in found])
                usable.append(np.flatnonzero(ok) + found[0].start + part.first_row)
    return np.sort(np.concatenate(usable))
