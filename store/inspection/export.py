"""Export of rows to files that other programs read: npz, safetensors, Parquet. Never pickle.

Rows go through a few at a time, so that exports may be larger than memory. A file appears whole or not at all.
"""

import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store import errors
from store.cache.dataset import Dataset
from store.cache.joined_dataset import by_part, in_whole
from store.cache.row_status import RowStatus
from store.common import atomic
from store.common.text import some_rows
from store.common.threads import ThreadTeam
from store.format.manifest import SCHEMA
from store.format.schema import OK, PIXELS
from store.format.trailer import safetensors_header

BATCH_BYTES = 32 * 2**20
SAFETENSORS_TYPES = {"float16": "F16", "uint8": "U8", "int64": "I64"}
ROW = "row"

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


def export(
    dataset: Dataset,
    rows: Sequence[int],
    names: Sequence[str],
    out: Path,
    *,
    skip: bool = False,
    overwrite: bool = False,
) -> int:
    """Write rows of several arrays into one file; codes are decoded.

    Args:
        dataset: the dataset that has the rows.
        rows: row numbers, in the order to write them.
        names: `pixels` and teachers.
        out: `.npz`, `.safetensors` or `.parquet` file.
        skip: leave out rows that are not ok in all arrays, instead of refusing them.
        overwrite: replace an existing file.

    Returns:
        The number of rows written.

    Raises:
        errors.InvalidInput: another suffix, a row out of bounds, or nothing to write.
        errors.OutputExists: `out` exists.
        errors.MissingFile: the folder of `out` does not exist.
        errors.RowsNotOk: rows are missing or failed; `.rows` lists them.
        errors.Damaged: a checksum differs.
    """
    writer_class = _writer_class(out, overwrite=overwrite)
    types = {name: dataset.row_type(name) for name in names}
    written = _rows_to_write(dataset, rows, names, skip=skip)
    contents = Contents(
        rows=written,
        shapes={name: (len(written), *shape) for name, (shape, _) in types.items()},
        dtypes={name: dtype for name, (_, dtype) in types.items()},
        metadata=_metadata(dataset, names),
    )
    row_bytes = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in types.values())
    batch_rows = max(1, BATCH_BYTES // max(1, row_bytes))
    with atomic.replacing(out) as partial, writer_class(partial, contents) as writer:
        for group in writer.passes:
            for start in range(0, len(written), batch_rows):
                batch = written[start : start + batch_rows]
                manifest = _manifest(dataset, batch) if writer.wants_manifest else None
                writer.write(dataset.read(batch, group), manifest)
    return len(written)


def _writer_class(out: Path, *, overwrite: bool) -> "type[Writer]":
    """Return the writer that the suffix of `out` chooses, if `out` may be written."""
    suffix = out.suffix.lower()
    if suffix not in WRITERS:
        raise errors.InvalidInput(f"cannot export to '{out}': its name must end in {', '.join(WRITERS)}")
    if not out.parent.is_dir():
        raise errors.MissingFile(f"cannot export to '{out}': folder '{out.parent}' does not exist")
    if out.exists() and not overwrite:
        raise errors.OutputExists(f"'{out}' exists. Pass --overwrite to replace it, or choose another --out")
    return WRITERS[suffix]


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
    ok = np.ones(len(rows), np.bool_)
    with closing(ThreadTeam(dataset.storage.read_threads)) as team:
        for part, places in by_part(dataset, rows):
            if name != PIXELS and name not in part.teachers:
                ok[places] = False  # a part that was added later
            elif part.array(name).layout is not None:
                status, numbers = RowStatus(part, name), rows[places] - part.first_row
                status.read_shards(np.unique(numbers // part.shard_rows).tolist(), team)
                ok[places] = status.values[numbers] == OK
    return ok


def _metadata(dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Return plain JSON that makes an export traceable."""
    teachers = {}
    for name in names:
        if name != PIXELS:
            info = dataset.teacher(name)
            teachers[name] = {
                "identity_digest": info.identity_digest,
                "patch_grid": list(info.patch_grid),
                "prefix_tokens": info.prefix_tokens,
                **({} if info.code is None else {"decoded_from_code": info.code.digest}),
            }
    return {"dataset": dataset.name, "cache": dataset.storage.location, "teachers": teachers}


def _manifest(dataset: Dataset, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the manifest rows, by trailers; only row and dataset where codistill did not write the pixels."""
    if dataset.array(PIXELS).layout is None:
        return pa.table({"row": rows, "dataset": [dataset.name] * len(rows)})
    tables = [SCHEMA.empty_table()]
    for part, places in by_part(dataset, rows):
        shards = np.unique((rows[places] - part.first_row) // part.shard_rows).tolist()
        of_part = [part.read_trailer(PIXELS, shard).manifest() for shard in shards]
        tables += [in_whole(table.replace_schema_metadata(None), part) for table in of_part if table is not None]
    table = pa.concat_tables(tables)
    known = table["row"].to_numpy()
    return table.take(pa.array(np.searchsorted(known, rows)))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Description of an export, known before its first row.

    Attributes:
        rows: int64 [R], row numbers.
        shapes: [R, ...] by array.
        dtypes: data types by array.
        metadata: plain JSON.
    """

    rows: npt.NDArray[np.int64]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    metadata: Mapping[str, Any]


class Writer(ABC):
    """A file being written; a context manager.

    Attributes:
        passes: groups of arrays to write together, one pass over all rows for each group.
        wants_manifest: whether `write` needs the manifest rows.
    """

    passes: Sequence[Sequence[str]]
    wants_manifest = False

    @abstractmethod
    def __init__(self, path: Path, contents: Contents) -> None:
        """Begin the file."""

    @abstractmethod
    def write(self, arrays: Arrays, manifest: pa.Table | None) -> None:
        """Write the next rows of the current pass."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NpzWriter(Writer):
    """A file for `numpy.load`: one array for each name, `row`, and `metadata` as JSON text; tokens do not compress."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.passes = [[name] for name in contents.shapes]
        self._contents = contents
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._name = ""
        self._member: IO[bytes] = io.BytesIO()
        self._small(ROW, contents.rows)
        self._small("metadata", np.array(json.dumps(contents.metadata)))

    def write(self, arrays: Arrays, manifest: pa.Table | None) -> None:
        ((name, values),) = arrays.items()
        if name != self._name:
            self._begin(name)
        self._member.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        self._member.close()
        self._zip.close()

    def _begin(self, name: str) -> None:
        self._member.close()
        self._name = name
        self._member = self._zip.open(f"{name}.npy", "w", force_zip64=True)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._contents.dtypes[name]),
            "fortran_order": False,
            "shape": self._contents.shapes[name],
        }
        np.lib.format.write_array_header_1_0(self._member, header)

    def _small(self, name: str, values: npt.NDArray[Any]) -> None:
        with self._zip.open(f"{name}.npy", "w") as member:
            np.lib.format.write_array(member, values, allow_pickle=False)


class SafetensorsWriter(Writer):
    """A safetensors file: one tensor for each name, and `row`; the header's metadata names dataset and identities."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.passes = [[name] for name in contents.shapes]
        header: dict[str, Any] = {"__metadata__": {"codistill": json.dumps(contents.metadata)}}
        end = 0
        shapes = {ROW: contents.rows.shape, **contents.shapes}
        dtypes = {ROW: contents.rows.dtype, **contents.dtypes}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * dtypes[name].itemsize
            kind = SAFETENSORS_TYPES[dtypes[name].name]
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
        self._file = path.open("wb")
        self._file.write(safetensors_header(header) + contents.rows.astype("<i8").tobytes())

    def write(self, arrays: Arrays, manifest: pa.Table | None) -> None:
        for values in arrays.values():
            self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        self._file.close()


class ParquetWriter(Writer):
    """A Parquet file: the manifest's columns and a list column for each array, with the shape in its metadata."""

    wants_manifest = True

    def __init__(self, path: Path, contents: Contents) -> None:
        self.passes = [list(contents.shapes)]
        self._path, self._contents = path, contents
        self._writer: pq.ParquetWriter | None = None

    def write(self, arrays: Arrays, manifest: pa.Table | None) -> None:
        assert manifest is not None
        table = manifest
        for name, values in arrays.items():
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            width = int(np.prod(values.shape[1:]))
            shape = json.dumps(list(values.shape[1:]))
            field = pa.field(name, pa.list_(flat.type, width), nullable=False, metadata={"shape": shape})
            table = table.append_column(field, pa.FixedSizeListArray.from_arrays(flat, width))
        if self._writer is None:
            metadata = {"codistill": json.dumps(self._contents.metadata)}
            table = table.replace_schema_metadata(metadata)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(table.replace_schema_metadata(self._writer.schema.metadata))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


WRITERS: Mapping[str, type[Writer]] = {".npz": NpzWriter, ".safetensors": SafetensorsWriter, ".parquet": ParquetWriter}
