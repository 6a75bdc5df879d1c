"""Paths and documents beside compact tokens: the arrays of their code, and the tables of its distortion."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.code import array_shapes
from store.format.code_spec import CodeSpec
from store.format.distortion import BINS
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import HIERARCHY, small_array_document

CODE = "code"
CODE_DIMENSIONS = {
    "mean": ("type", "channel"),
    "std": ("type", "channel"),
    "rotation": ("type", "turned", "component"),
    "signs": ("sign_number", "component"),
    "decoder": ("type", "component", "channel"),
}


@dataclass(frozen=True, kw_only=True)
class SmallArray:
    """An array that is one chunk with a checksum.

    Attributes:
        path: path below the cache.
        shape: shape of the array.
        dtype: type of its values, little-endian.
        dimensions: names of its dimensions.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dimensions: tuple[str, ...]

    @property
    def document_key(self) -> str:
        """The object of its zarr.json."""
        return f"{self.path}/zarr.json"

    @property
    def key(self) -> str:
        """The object of its only chunk."""
        return f"{self.path}/{'.'.join(['c', *['0'] * len(self.shape)])}"

    @property
    def document(self) -> bytes:
        """Its zarr.json, which can be only this one."""
        return small_array_document(self.shape, self.dtype, self.dimensions)

    @property
    def stored_bytes(self) -> int:
        """Size of its chunk, checksum included."""
        return math.prod(self.shape) * self.dtype.itemsize + CHECKSUM_BYTES

    def encode(self, values: npt.NDArray[Any]) -> bytes:
        """Return its chunk: little-endian values, then their crc32c."""
        data = np.ascontiguousarray(values, self.dtype).tobytes()
        return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")

    def decode(self, data: bytes) -> npt.NDArray[Any] | None:
        """Return the read-only values of a chunk; None if size or checksum differ."""
        body, crc = data[:-CHECKSUM_BYTES], int.from_bytes(data[-CHECKSUM_BYTES:], "little")
        if len(data) != self.stored_bytes or checksum(body) != crc:
            return None
        return np.frombuffer(body, self.dtype).reshape(self.shape)


def code_path(dataset: str, teacher: str) -> str:
    """Return the path of the group that holds the arrays of a teacher's code."""
    return f"{HIERARCHY}/{dataset}/{teacher}/{CODE}"


def code_arrays(dataset: str, teacher: str, spec: CodeSpec) -> dict[str, SmallArray]:
    """Return the arrays of a teacher's code by name."""
    base = code_path(dataset, teacher)
    return {
        name: SmallArray(path=f"{base}/{name}", shape=shape, dtype=dtype, dimensions=_dimensions(name))
        for name, (shape, dtype) in array_shapes(spec).items()
    }


def _dimensions(name: str) -> tuple[str, ...]:
    """Return the dimensions of an array of a code; xarray wants one length for each name."""
    return CODE_DIMENSIONS.get(name) or ("codeword", f"value_of_{name}")


def distortion_paths(dataset: str, teacher: str) -> tuple[str, ...]:
    """Return the paths of the sealed tables of what a code does to a teacher's tokens."""
    return tuple(table.path for table in distortion_tables(dataset, teacher, channels=1).values())


def distortion_tables(dataset: str, teacher: str, *, channels: int) -> dict[str, SmallArray]:
    """Return the sealed tables of what a code does to a teacher's tokens, by name."""
    tables: dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]] = {
        "distortion": ((2, 3, channels), "<f8", ("type", "product", "channel")),
        "cosine": ((2, BINS), "<i8", ("type", "bin")),
        "floor": ((2, 3), "<f8", ("type", "sum")),
    }
    base = f"{HIERARCHY}/{dataset}/{teacher}"
    return {
        name: SmallArray(path=f"{base}/{name}", shape=shape, dtype=np.dtype(dtype), dimensions=dimensions)
        for name, (shape, dtype, dimensions) in tables.items()
    }
