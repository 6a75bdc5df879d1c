"""Peers that store samples: webdataset with safetensors, as Theia stores features, and Lance."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.page_cache import files_below, sync
from benchmarks.store.peers import Order, Reader, RowNumbers, Writer
from benchmarks.store.rows import Buffers, Rows

MEMBER = "embedding.safetensors"
SHUFFLE_ROWS = 64  # as many rows wait in memory to be shuffled; Theia's default would not fit here at 3.9 MB a row
LANCE_BATCH_ROWS = 32


class TarWriter(Writer):
    """webdataset: a tar for each array and shard, a safetensors blob a row."""

    name = "webdataset + safetensors"
    modules = ("webdataset", "safetensors")

    def write(self, folder: Path, rows: Rows) -> None:
        import webdataset
        from safetensors.numpy import save

        for name in rows.names:
            for number, shard in enumerate(rows.shards()):
                with webdataset.TarWriter(str(folder / f"{name}-{number:06d}.tar"), encoder=False) as tar:
                    for row in shard:
                        tar.write({"__key__": f"{row:08d}", MEMBER: save({"embedding": rows.row(name, row)})})
        sync(files_below(folder))


class TarReader(Reader):
    """webdataset: one stream an array, read in step; no random access, so a shuffle buffer instead."""

    name = "webdataset + safetensors"
    format = TarWriter.name
    how = f"streams zipped, safetensors.numpy.load, a shuffle buffer of {SHUFFLE_ROWS} rows for random order"
    modules = ("webdataset", "safetensors")

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        self._folder, self._rows, self._out, self._order = folder, rows, out, order
        self._samples = self._stream()

    def read(self, wanted: RowNumbers) -> Sequence[int]:
        delivered: list[int] = []
        while len(delivered) < len(wanted):
            sample = next(self._samples, None)
            if sample is None:
                self._samples = self._stream()
                continue
            row, values = sample
            for name, value in values.items():
                self._out[name][len(delivered)] = value
            delivered.append(row)
        return delivered

    def close(self) -> None:
        del self._samples

    def _stream(self) -> Iterator[tuple[int, dict[str, Any]]]:
        import webdataset

        samples = self._in_order()
        if self._order == "sequential":
            return samples
        shuffle = webdataset.shuffle(SHUFFLE_ROWS, initial=min(SHUFFLE_ROWS, self._rows.count))
        shuffled: Iterator[tuple[int, dict[str, Any]]] = shuffle(samples)
        return shuffled

    def _in_order(self) -> Iterator[tuple[int, dict[str, Any]]]:
        import webdataset
        from safetensors.numpy import load

        names = self._rows.names
        tars = [[str(path) for path in sorted(self._folder.glob(f"{name}-*.tar"))] for name in names]
        streams = [webdataset.WebDataset(paths, shardshuffle=False) for paths in tars]
        for samples in zip(*streams, strict=True):
            yield (
                int(samples[0]["__key__"]),
                {name: load(sample[MEMBER])["embedding"] for name, sample in zip(names, samples, strict=True)},
            )


class LanceWriter(Writer):
    """Lance: one table, a fixed-size list column an array."""

    name = "Lance"
    modules = ("lance",)

    def write(self, folder: Path, rows: Rows) -> None:
        import lance

        schema = pa.schema([(name, _list_type(rows, name)) for name in rows.names])
        batches = pa.RecordBatchReader.from_batches(schema, _batches(rows, schema))
        lance.write_dataset(batches, str(folder / "rows.lance"))
        sync(files_below(folder))


class LanceReader(Reader):
    """Lance."""

    name = "Lance"
    format = LanceWriter.name
    how = "dataset.take of the batch's rows, copied out of the Arrow table"
    modules = ("lance",)

    def open(self, folder: Path, rows: Rows, out: Buffers, order: Order) -> None:
        import lance

        self._dataset: Any = lance.dataset(str(folder / "rows.lance"))
        self._out = out

    def read(self, wanted: RowNumbers) -> RowNumbers:
        table = self._dataset.take(wanted.tolist(), columns=list(self._out))
        for name, out in self._out.items():
            start = 0
            for chunk in table[name].chunks:
                values = chunk.flatten().to_numpy(zero_copy_only=True)
                np.copyto(out[start : start + len(chunk)], values.reshape(len(chunk), *out.shape[1:]))
                start += len(chunk)
        return wanted

    def close(self) -> None:
        del self._dataset


def _list_type(rows: Rows, name: str) -> pa.DataType:
    spec = rows.arrays[name]
    return pa.list_(pa.from_numpy_dtype(spec.dtype), int(np.prod(spec.shape)))


def _batches(rows: Rows, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows.count, LANCE_BATCH_ROWS):
        numbers = range(start, min(start + LANCE_BATCH_ROWS, rows.count))
        columns = [
            pa.FixedSizeListArray.from_arrays(
                pa.array(np.concatenate([rows.row(name, row).reshape(-1) for row in numbers])),
                type=schema.field(name).type,
            )
            for name in rows.names
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
