"""Peers: codistill, and the other readers and writers of Zarr."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import store
from benchmarks.page_cache import files_below, sync
from benchmarks.store.peers import THREADS, Order, Reader, RowNumbers, Writer
from benchmarks.store.rows import PIXELS, Buffers, Rows
from store.cache.writer import ShardPlan, ShardWriter
from store.format import kernels, manifest
from store.format.schema import OK

DATASET = "noise"
NO_PIXELS = "0" * 64  # the digest that tokens name where pixels are left out


class CacheWriter(Writer):
    """codistill: slots, checksums, moments of tokens, trailer, index, synced and published."""

    name = "codistill"

    def write(self, folder: Path, rows: Rows) -> None:
        dataset = store.open(folder)[DATASET]
        for shard, numbers in enumerate(rows.shards()):
            digest = NO_PIXELS
            for name in rows.names:
                pixels = name == PIXELS
                with dataset.write_shard(
                    name, shard, provenance={}, pixels_digest=None if pixels else digest
                ) as writer:
                    for row in numbers:
                        writer.append(rows.row(name, row))
                    writer.finish(manifest_of(dataset.name, numbers) if pixels else None)
                if pixels and len(rows.names) > 1:
                    digest = dataset.read_trailer(name, shard).digest

    def prepare(self, folder: Path, rows: Rows) -> None:
        kernels.compiled()  # takes a second, once a process
        size = rows.arrays[PIXELS].shape[0] if PIXELS in rows.arrays else 1
        cache = store.create(folder, {"image_size": size, "shard_rows": rows.shard_rows})
        images = image_list(range(rows.count))
        dataset = cache.create_dataset(DATASET, images=images, group="all", split="train", mode="train", views=1)
        for name, spec in rows.arrays.items():
            if name != PIXELS:
                dataset.create_teacher(
                    name,
                    identity={"model": name},
                    groups=["all"],
                    patch_grid=spec.patch_grid,
                    prefix_tokens=spec.prefix_tokens,
                    channels=spec.shape[1],
                )


class SlotsWriter(CacheWriter):
    """codistill without the moments of tokens, which no peer computes: cost of the format alone. Not a valid cache."""

    name = "codistill, moments left out"

    def write(self, folder: Path, rows: Rows) -> None:
        dataset = store.open(folder)[DATASET]
        for name in rows.names:
            node = dataset.array(name)
            assert node.layout is not None
            for shard, numbers in enumerate(rows.shards()):
                plan = ShardPlan(
                    dataset=dataset.name,
                    array=name,
                    shard=shard,
                    node=node,
                    layout=node.layout,
                    prefix_tokens=None,
                    identity_digest=dataset.identity_digest(name),
                    pixels_digest=None,
                    provenance={},
                )
                with ShardWriter(dataset.storage, plan) as writer:
                    for row in numbers:
                        writer.append(rows.row(name, row))
                    writer.finish(manifest_of(dataset.name, numbers) if name == PIXELS else None)


def image_list(numbers: range) -> pa.Table:
    """Return a made-up image list."""
    index = pa.array(numbers, pa.int64())
    return pa.table({"image_index": index, "path": [f"{number:08d}.jpg" for number in numbers], "bytes": index})


def manifest_of(dataset: str, numbers: range) -> pa.Table:
    """Return made-up manifest rows."""
    known: dict[str, Iterable[Any]] = {
        "row": numbers,
        "dataset": [dataset] * len(numbers),
        "image_index": numbers,
        "path": [f"{number:08d}.jpg" for number in numbers],
        "view": [0] * len(numbers),
        "status": [OK] * len(numbers),
    }
    nothing = [None] * len(numbers)
    columns = [pa.array(known.get(column.name, nothing), column.type) for column in manifest.SCHEMA]
    return pa.table(columns, schema=manifest.SCHEMA)


class CacheReader(Reader):
    """codistill."""

    format = CacheWriter.name

    def __init__(self, *, verify: bool) -> None:
        self.name = f"codistill, {'verified' if verify else 'unverified'}"
        self.how = f"Dataset.read(rows, names, out=out, verify={verify})"
        self._verify = verify

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        self._dataset = store.open(folder)[DATASET]
        self._names, self._out = rows.names, dict(out)

    def read(self, wanted: RowNumbers) -> RowNumbers:
        self._dataset.read(wanted, self._names, out=self._out, verify=self._verify)
        return wanted

    def close(self) -> None:
        del self._dataset


class ZarrWriter(Writer):
    """zarr-python, a whole shard at a time, with the codecs of codistill's arrays."""

    name = "zarr-python"
    modules = ("zarr",)

    def write(self, folder: Path, rows: Rows) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec

        for name, spec in rows.arrays.items():
            array = zarr.create_array(
                store=str(folder / name),
                shape=(rows.count, *spec.shape),
                dtype=spec.dtype,
                chunks=(1, *spec.shape),
                shards=(rows.shard_rows, *spec.shape),
                compressors=Crc32cCodec(),
                filters=None,
            )
            for shard in rows.shards():
                array[shard.start : shard.stop] = np.stack([rows.row(name, row) for row in shard])
        sync(files_below(folder))


class ZarrReader(Reader):
    """zarr-python on codistill's files, with its own codec pipeline or that of zarrs."""

    format = CacheWriter.name

    def __init__(self, *, pipeline: str | None = None) -> None:
        self.name = "zarr-python" if pipeline is None else "zarr-python, zarrs pipeline"
        self.how = f"array[row] for each row, {THREADS} threads"
        self.modules = ("zarr",) if pipeline is None else ("zarr", "zarrs")
        self._pipeline = pipeline

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        import zarr

        dataset = store.open(folder)[DATASET]
        chosen = {} if self._pipeline is None else {"codec_pipeline.path": self._pipeline}
        with zarr.config.set(chosen):
            self._arrays: list[tuple[Any, Any]] = [
                (zarr.open_array(str(folder / dataset.array(name).path), mode="r"), out[name]) for name in rows.names
            ]
        self._pool = ThreadPoolExecutor(THREADS)

    def read(self, wanted: RowNumbers) -> RowNumbers:
        copies = [(array, row, out[i]) for array, out in self._arrays for i, row in enumerate(wanted.tolist())]
        for _ in self._pool.map(_copy_row, copies):
            pass
        return wanted

    def close(self) -> None:
        self._pool.shutdown()
        self._arrays = []


def _copy_row(copy: tuple[Any, int, Any]) -> None:
    array, row, out = copy
    out[...] = array[row]


class TensorStoreReader(Reader):
    """tensorstore on codistill's files."""

    name = "tensorstore"
    format = CacheWriter.name
    how = "one asynchronous write of each row into its part of the batch"
    modules = ("tensorstore",)

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        import tensorstore as ts

        dataset = store.open(folder)[DATASET]
        self._arrays: list[tuple[Any, Any]] = []
        for name in rows.names:
            kvstore = {"driver": "file", "path": f"{folder / dataset.array(name).path}/"}
            source = ts.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()
            self._arrays.append((source, ts.array(out[name], write=True, copy=False)))

    def read(self, wanted: RowNumbers) -> RowNumbers:
        rows = wanted.tolist()
        running = [out[i].write(source[row]) for source, out in self._arrays for i, row in enumerate(rows)]
        for one in running:
            one.result()
        return wanted

    def close(self) -> None:
        self._arrays = []
