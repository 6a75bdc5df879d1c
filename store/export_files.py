"""The three files that rows are exported to, written a few rows at a time."""

import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.schema import json_bytes

Arrays = Mapping[str, npt.NDArray[Any]]
SAFETENSORS_TYPES = {"float16": "F16", "uint8": "U8", "int64": "I64"}
ROW = "row"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file will hold.

    Attributes:
        rows: int64 [R], their numbers.
        shapes: [R, ...] by array.
        dtypes: by array.
        metadata: plain JSON.
    """

    rows: npt.NDArray[np.int64]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    metadata: Mapping[str, Any]


class Writer(ABC):
    """A file being written; a context manager.

    Attributes:
        passes: the arrays to give together, one pass over all rows for each group.
        wants_manifest: whether `write` needs the manifest rows.
    """

    passes: Sequence[Sequence[str]]
    wants_manifest = False

    @abstractmethod
    def write(self, arrays: Arrays, manifest: pa.Table | None) -> None:
        """Take the next rows of the current pass."""

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
    """For `numpy.load`: an array for each name, `row`, and `metadata` as JSON text. Tokens would not compress."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.passes = [[name] for name in contents.shapes]
        self._contents = contents
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._name = ""
        self._member: IO[bytes] = io.BytesIO()
        self._small("row", contents.rows)
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
    """`safetensors`: one tensor for each name, and `row`; the header's metadata names dataset and identities."""

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
        text = json_bytes(header)
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text + contents.rows.astype("<i8").tobytes())

    def write(self, arrays: Arrays, manifest: pa.Table | None) -> None:
        for values in arrays.values():
            self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        self._file.close()


class ParquetWriter(Writer):
    """Parquet: the manifest's columns and one list column for each array; shapes are in the columns' metadata."""

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


FORMATS: Mapping[str, type[Writer]] = {".npz": NpzWriter, ".safetensors": SafetensorsWriter, ".parquet": ParquetWriter}
