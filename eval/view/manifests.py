"""Manifests as tables that are scanned column by column: of a sealed dataset its Parquet file, wherever it is stored.

Rows of shards that are not sealed yet are added from their trailers, as long as they are few.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

import store
from eval.view.opened import Opened
from eval.view.parts import DatasetPart, parts_of
from eval.view.records import sealed_status
from eval.view.shards import shard_record
from store import errors
from store.cache.seal_record import trusted_record
from store.cache.sealed_tables import manifest_mark
from store.format.layout import any_in_shard
from store.format.manifest import SCHEMA
from store.format.schema import MISSING, PIXELS, manifest_key

MOST_UNSEALED_SHARDS = 256  # with more, sealing is the quicker way


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Manifest rows of one part of a dataset.

    Attributes:
        part: the part.
        table: pyarrow dataset with the columns of `SCHEMA`, numbered in the part.
    """

    part: DatasetPart
    table: Any


def manifests_of(opened: Opened, dataset: str) -> list[Manifest]:
    """Return the manifest rows of a dataset by part, sealed and not.

    Raises:
        errors.NotSealed: so many shards are not sealed that sealing is the quicker way to know their rows.
        errors.Damaged: the sealed manifest does not end as it was sealed.
    """
    return [Manifest(part=part, table=_table(opened, part.stored)) for part in parts_of(opened, dataset)]


def _table(opened: Opened, stored: store.Dataset) -> Any:
    import pyarrow.dataset as pads  # slow to import, and nothing else needs it

    sealed = _sealed(stored)
    unsealed = unsealed_shards(opened, stored, PIXELS)
    if len(unsealed) > MOST_UNSEALED_SHARDS:
        what = f"{len(unsealed):,} shards of '{stored.name}' are not sealed"
        message = f"{what}: conditions and sorting read the sealed manifest. Run: codistill store seal"
        raise errors.NotSealed(f"{message} {stored.storage.location}")
    tables = [shard_record(opened, stored, PIXELS, shard).manifest() for shard in unsealed]
    extra = [table for table in tables if table is not None]
    if not extra:
        return sealed or pads.dataset(SCHEMA.empty_table())
    added = pads.dataset(pa.concat_tables(extra))
    return added if sealed is None else pads.dataset([sealed, added])


def unsealed_shards(opened: Opened, dataset: store.Dataset, array: str) -> list[int]:
    """Return the shards of an array of a part that exist and that no seal covers.

    Nothing is listed where all rows are sealed.
    """
    if dataset.array(array).layout is None:
        return []
    try:
        status = sealed_status(opened, dataset, array)
    except (errors.NotSealed, errors.Damaged):
        return sorted(dataset.present(array))
    if (status != MISSING).all():
        return []
    sealed = np.flatnonzero(any_in_shard(status != MISSING, dataset.shard_rows))
    return sorted(dataset.present(array) - set(sealed.tolist()))


def _sealed(dataset: store.Dataset) -> Any | None:
    """Return the sealed manifest as a pyarrow dataset; None without a seal."""
    import pyarrow.dataset as pads

    _check_mark(dataset)
    try:
        source = dataset.storage.arrow_file(manifest_key(dataset.name))
    except FileNotFoundError:
        return None
    checked = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
    format = pads.ParquetFileFormat(default_fragment_scan_options=checked)
    try:
        fragment = format.make_fragment(source)
        found = fragment.physical_schema
    except (pa.ArrowException, OSError) as error:
        raise _damaged(dataset, str(error)) from error
    differing = [field.name for field in SCHEMA if field.name not in found.names or found.field(field.name) != field]
    if differing:
        raise _damaged(dataset, f"columns {', '.join(differing)} are not those of a manifest")
    return pads.FileSystemDataset([fragment], SCHEMA, format)


def _check_mark(dataset: store.Dataset) -> None:
    """Compare the end of the file with what its seal recorded: damaged, it can make Arrow end the process."""
    record = trusted_record(dataset.storage, dataset=dataset.name, array=PIXELS)
    expected = "" if record is None else record.tables.get("manifest", "")
    if expected and manifest_mark(dataset.storage, dataset.name) not in ("", expected):
        raise _damaged(dataset, "it does not end as it was sealed")


def _damaged(dataset: store.Dataset, reason: str) -> errors.Damaged:
    where = f"'{manifest_key(dataset.name)}' cannot be used: {' '.join(reason.split())[:200]}"
    return errors.Damaged(f"{where}. It is derived: delete it and run: codistill store seal {dataset.storage.location}")
