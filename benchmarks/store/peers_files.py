"""Peers: HDF5, LMDB and numpy's own files; one process, one thread, no compression."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page_cache import files_below, sync
from benchmarks.store.peers import Order, Reader, RowNumbers, Writer
from benchmarks.store.rows import Buffers, Rows

LMDB_SPARE_BYTES = 64 * 2**20


class Hdf5Writer(Writer):
    """h5py: one file, a dataset an array, a chunk a row."""

    name = "h5py"
    modules = ("h5py",)

    def write(self, folder: Path, rows: Rows) -> None:
        import h5py

        with h5py.File(folder / "rows.h5", "w", libver="latest") as file:
            for name, spec in rows.arrays.items():
                shape = (rows.count, *spec.shape)
                target = file.create_dataset(name, shape, spec.dtype, chunks=(1, *spec.shape))
                for row in range(rows.count):
                    target.write_direct(rows.row(name, row), dest_sel=np.s_[row])
        sync(files_below(folder))


class Hdf5Reader(Reader):
    """h5py."""

    name = "h5py"
    format = Hdf5Writer.name
    how = "read_direct of each row into its part of the batch"
    modules = ("h5py",)

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        import h5py

        self._file: Any = h5py.File(folder / "rows.h5", "r")
        self._arrays = [(self._file[name], out[name]) for name in rows.names]

    def read(self, wanted: RowNumbers) -> RowNumbers:
        for array, out in self._arrays:
            for position, row in enumerate(wanted.tolist()):
                array.read_direct(out[position], np.s_[row])
        return wanted

    def close(self) -> None:
        self._arrays = []
        self._file.close()


class LmdbWriter(Writer):
    """LMDB: a key a row, appended in order, one transaction a shard."""

    name = "LMDB"
    modules = ("lmdb",)

    def write(self, folder: Path, rows: Rows) -> None:
        import lmdb

        size = 2 * rows.count * (rows.row_bytes + 2 * os.sysconf("SC_PAGE_SIZE")) + LMDB_SPARE_BYTES
        with lmdb.open(str(folder), map_size=size) as environment:
            for name in sorted(rows.names):
                for shard in rows.shards():
                    with environment.begin(write=True) as transaction:
                        for row in shard:
                            transaction.put(_key(name, row), rows.data(name, row), append=True)


class LmdbReader(Reader):
    """LMDB."""

    name = "LMDB"
    format = LmdbWriter.name
    how = "one transaction a batch, values copied out of the mapping"
    modules = ("lmdb",)

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        import lmdb

        self._environment: Any = lmdb.open(str(folder), readonly=True, lock=False)
        self._arrays = [(name, out[name]) for name in rows.names]

    def read(self, wanted: RowNumbers) -> RowNumbers:
        with self._environment.begin(buffers=True) as transaction:
            for name, out in self._arrays:
                for position, row in enumerate(wanted.tolist()):
                    value = np.frombuffer(transaction.get(_key(name, row)), out.dtype)
                    out[position] = value.reshape(out.shape[1:])
        return wanted

    def close(self) -> None:
        self._environment.close()


def _key(name: str, row: int) -> bytes:
    return f"{name}/{row:08d}".encode()


class NpyWriter(Writer):
    """numpy: one .npy file an array."""

    name = "numpy .npy"

    def write(self, folder: Path, rows: Rows) -> None:
        for name, spec in rows.arrays.items():
            with (folder / f"{name}.npy").open("wb") as file:
                shape = (rows.count, *spec.shape)
                header = {
                    "descr": np.lib.format.dtype_to_descr(spec.dtype),
                    "fortran_order": False,
                    "shape": shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                for row in range(rows.count):
                    file.write(rows.data(name, row))
                file.flush()
                os.fsync(file.fileno())


class NpyReader(Reader):
    """numpy memmap."""

    name = "numpy memmap"
    format = NpyWriter.name
    how = "each row copied out of the mapping"

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        self._arrays = [(np.load(folder / f"{name}.npy", mmap_mode="r"), out[name]) for name in rows.names]

    def read(self, wanted: RowNumbers) -> RowNumbers:
        for array, out in self._arrays:
            for position, row in enumerate(wanted.tolist()):
                np.copyto(out[position], array[row])
        return wanted

    def close(self) -> None:
        self._arrays = []  # the mappings go with their last array
