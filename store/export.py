"""Exporting rows to files that other programs read: npz, safetensors, Parquet. Never pickle.

Rows go through a few at a time, so that exports may be larger than memory. A file appears whole or not at all.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.dataset import Dataset
from store.export_files import FORMATS, Contents
from store.manifest import SCHEMA
from store.problems import some_rows
from store.schema import OK, PIXELS

BATCH_BYTES = 32 * 2**20


def export(
    dataset: Dataset,
    rows: Sequence[int],
    names: Sequence[str],
    out: Path,
    *,
    skip: bool = False,
    overwrite: bool = False,
) -> int:
    """Write rows of several arrays into one file.

    Args:
        dataset: whose rows.
        rows: numbers, in the order to write them.
        names: `pixels` and teachers.
        out: `.npz`, `.safetensors` or `.parquet`.
        skip: leave rows out that are not ok in all arrays, rather than refuse.
        overwrite: replace an existing file.

    Returns:
        How many rows were written.

    Raises:
        errors.InvalidInput: another suffix, a row out of bounds, or nothing to write.
        errors.OutputExists: `out` exists.
        errors.MissingFile: the folder of `out` does not exist.
        errors.RowsNotOk: rows are missing or failed; `.rows` lists them.
        errors.Damaged: a checksum differs.
    """
    writer_of = _check_output(out, overwrite=overwrite)
    nodes = {name: dataset.array(name) for name in names}
    kept = _rows_to_write(dataset, rows, names, skip=skip)
    contents = Contents(
        rows=kept,
        shapes={name: (len(kept), *node.row_shape) for name, node in nodes.items()},
        dtypes={name: node.dtype for name, node in nodes.items()},
        metadata=_metadata(dataset, names),
    )
    row_bytes = sum(int(np.prod(node.row_shape)) * node.dtype.itemsize for node in nodes.values())
    per_batch = max(1, BATCH_BYTES // max(1, row_bytes))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with writer_of(partial, contents) as writer:
            for group in writer.passes:
                for start in range(0, len(kept), per_batch):
                    part = kept[start : start + per_batch]
                    writer.write(dataset.read(part, group), _manifest(dataset, part) if writer.wants_manifest else None)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return len(kept)


def _check_output(out: Path, *, overwrite: bool) -> Any:
    if out.suffix.lower() not in FORMATS:
        raise errors.InvalidInput(f"cannot export to '{out}': its name must end in {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise errors.MissingFile(f"cannot export to '{out}': folder '{out.parent}' does not exist")
    if out.exists() and not overwrite:
        raise errors.OutputExists(f"'{out}' exists. Pass --overwrite to replace it, or choose another --out")
    return FORMATS[out.suffix.lower()]


def _rows_to_write(dataset: Dataset, rows: Sequence[int], names: Sequence[str], *, skip: bool) -> npt.NDArray[np.int64]:
    wanted = np.asarray(rows, np.int64)
    outside = wanted[(wanted < 0) | (wanted >= dataset.rows)]
    if len(outside):
        last = dataset.rows - 1
        raise errors.InvalidInput(f"{some_rows(outside.tolist())}: '{dataset.name}' has rows 0..{last}")
    ok = np.ones(len(wanted), np.bool_)
    for name in names:
        ok &= _ok(dataset, name, wanted)
    if not ok.all() and not skip:
        bad = wanted[~ok]
        message = f"'{dataset.name}': {some_rows(bad.tolist())} not ok in all of {', '.join(names)}"
        raise errors.RowsNotOk(f"{message}. Pass --skip to leave them out", bad.tolist())
    if not ok.any():
        raise errors.InvalidInput(f"'{dataset.name}': no row to export. Name rows that are ok in {', '.join(names)}")
    return wanted[ok]


def _ok(dataset: Dataset, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether rows are ok, by trailers: exact without a seal and after one."""
    if dataset.array(name).layout is None:
        return np.ones(len(rows), np.bool_)
    ok = np.zeros(len(rows), np.bool_)
    shards = rows // dataset.shard_rows
    for shard in np.unique(shards).tolist():
        here = shards == shard
        try:
            said = dataset.read_trailer(name, shard)
        except errors.MissingShard:
            continue
        ok[here] = said.status[rows[here] - said.rows.start] == OK
    return ok


def _metadata(dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Return what makes an export traceable: plain JSON."""
    teachers = {}
    for name in names:
        if name != PIXELS:
            info = dataset.teacher(name)
            teachers[name] = {
                "identity_digest": info.identity_digest,
                "patch_grid": list(info.patch_grid),
                "prefix_tokens": info.prefix_tokens,
            }
    return {"dataset": dataset.name, "cache": dataset.storage.location, "teachers": teachers}


def _manifest(dataset: Dataset, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the manifest rows, by trailers; nothing but row and dataset for pixels of somebody else."""
    if dataset.array(PIXELS).layout is None:
        return pa.table({"row": rows, "dataset": [dataset.name] * len(rows)})
    shards = np.unique(rows // dataset.shard_rows).tolist()
    parts = [SCHEMA.empty_table(), *(dataset.read_trailer(PIXELS, shard).manifest() for shard in shards)]
    table = pa.concat_tables(part.replace_schema_metadata(None) for part in parts if part is not None)
    known = table["row"].to_numpy()
    return table.take(pa.array(np.searchsorted(known, rows)))
