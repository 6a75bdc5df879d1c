"""A sealed cache of DUNE's size without its 73 TB: true metadata and sealed tables, shards that are holes.

Image lists, manifests, status and statistics are written by the store's own functions. A shard is a sparse file of the
right name and size; it has no trailer, so the cache can be opened, sampled and (unverified) read, not verified.
"""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

import store
from benchmarks.machine import ROOT
from benchmarks.store.rows import PIXELS, ArraySpec, specs
from store.cache import sealed_tables
from store.format import statistics
from store.format.layout import ShardLayout
from store.format.manifest import GROUP_ROWS, SCHEMA
from store.format.moments import TokenMoments
from store.format.schema import FAILED, OK, statistics_path, status_path
from store.sealing.manifest_writer import ManifestFile

CATALOGUE = ROOT / "extract" / "catalogues" / "dune.toml"
FAILED_SHARE = 1e-3
SOURCE_PX = (1024, 768)


@dataclass(frozen=True)
class DatasetSize:
    """Size of a training dataset of the paper."""

    name: str
    group: str
    images: int


def datasets_of_dune(*, share: float = 1.0) -> list[DatasetSize]:
    """Return the 19 training datasets at `share` of their size."""
    entries = tomllib.loads(CATALOGUE.read_text())["dataset"]
    return [
        DatasetSize(entry["name"], entry["group"], max(1, round(entry["expected_images"] * share)))
        for entry in entries
        if entry.get("split", "train") == "train"
    ]


def make_cache(folder: Path, sizes: Sequence[DatasetSize], *, shard_rows: int, holes: bool = True) -> int:
    """Make the cache; return the number of its shard files.

    Args:
        folder: folder of the cache, empty or absent.
        sizes: sizes of the datasets.
        shard_rows: rows of a shard.
        holes: make the shard files; without them only metadata and sealed tables.
    """
    arrays = specs(small=False)
    cache = store.create(folder, {"image_size": arrays[PIXELS].shape[0], "shard_rows": shard_rows})
    files = 0
    for number, size in enumerate(tqdm(sizes, desc="generate", unit="dataset")):
        dataset = cache.create_dataset(
            size.name, images=_image_list(size), group=size.group, split="train", mode="train", views=1
        )
        generator = np.random.default_rng(number)
        for name, spec in arrays.items():
            if name != PIXELS:
                _create_teacher(dataset, name, spec)
            status = np.where(generator.random(dataset.rows) < FAILED_SHARE, FAILED, OK).astype(np.uint8)
            sealed_tables.write_small_array(dataset.storage, status_path(size.name, name), status, names=("row",))
            files += _make_holes(dataset, name) if holes else 0
            if name == PIXELS:
                _write_manifest(dataset, status, generator)
            else:
                _write_statistics(dataset, name, generator)
    return files


def _image_list(size: DatasetSize) -> pa.Table:
    index = np.arange(size.images)
    columns = {"image_index": index, "path": _paths(index), "bytes": index % 100_000 + 50_000}
    return pa.table(columns)


def _paths(index: npt.NDArray[np.int64]) -> pa.Array:
    digits = pc.utf8_lpad(pc.cast(pa.array(index), pa.string()), 9, "0")
    folders = pc.utf8_lpad(pc.cast(pa.array(index // 1000), pa.string()), 6, "0")
    return pc.binary_join_element_wise(pc.binary_join_element_wise("folder", folders, "_"), digits, "/")


def _create_teacher(dataset: store.Dataset, name: str, spec: ArraySpec) -> None:
    dataset.create_teacher(
        name,
        identity={"model": name},
        groups=[name],
        patch_grid=spec.patch_grid,
        prefix_tokens=spec.prefix_tokens,
        channels=spec.shape[1],
    )


def _make_holes(dataset: store.Dataset, array: str) -> int:
    """Create every shard of an array as a sparse file; return the number of shards."""
    node = dataset.array(array)
    assert isinstance(node.layout, ShardLayout)
    for shard in range(dataset.shards):
        path = Path(dataset.storage.location, node.shard_key(shard))
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.ftruncate(fd, node.layout.slots_bytes(shard) + node.layout.index_bytes)
        os.close(fd)
    return int(dataset.shards)


def _write_manifest(dataset: store.Dataset, status: npt.NDArray[np.uint8], generator: np.random.Generator) -> None:
    """Write the sealed manifest, one row group after another."""
    with ManifestFile(dataset.storage, dataset=dataset.name, shard_rows=GROUP_ROWS) as manifest:
        for group, start in enumerate(range(0, dataset.rows, GROUP_ROWS)):
            rows = np.arange(start, min(start + GROUP_ROWS, dataset.rows))
            manifest.add(group, _manifest_rows(dataset.name, rows, status[rows], generator))
        manifest.publish()


def _manifest_rows(
    dataset: str, rows: npt.NDArray[np.int64], status: npt.NDArray[np.uint8], generator: np.random.Generator
) -> pa.Table:
    width, height = SOURCE_PX
    sides = generator.integers(200, height, len(rows))
    factors = {name: generator.uniform(0.6, 1.4, len(rows)) for name in ("brightness", "contrast", "saturation")}
    known = {
        "row": rows,
        "dataset": pa.repeat(dataset, len(rows)),
        "image_index": rows,
        "path": _paths(rows),
        "view": np.zeros(len(rows), np.int32),
        "source_width": np.full(len(rows), width),
        "source_height": np.full(len(rows), height),
        "rotate_deg": np.zeros(len(rows), np.int32),
        "crop_top": generator.integers(0, height - sides),
        "crop_left": generator.integers(0, width - sides),
        "crop_height": sides,
        "crop_width": sides,
        "flip": generator.random(len(rows)) < 0.5,
        **factors,
        "status": status,
        "error": pc.if_else(pa.array(status == FAILED), "decode: truncated file", None),
    }
    columns = [
        pa.array(known[column.name]).cast(column.type) if column.name in known else pa.nulls(len(rows), column.type)
        for column in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


def _write_statistics(dataset: store.Dataset, teacher: str, generator: np.random.Generator) -> None:
    """Write statistics of random tokens instead of those of the dataset."""
    info = dataset.teacher(teacher)
    prefix_tokens = info.prefix_tokens
    moments = TokenMoments(prefix_tokens=prefix_tokens, tokens=prefix_tokens + 64, channels=info.channels, rows=1)
    moments.add(generator.standard_normal((prefix_tokens + 64, info.channels)).astype(np.float16))
    values = statistics.stacked(*moments.result())
    names = ("type", "statistic", "channel")
    sealed_tables.write_small_array(dataset.storage, statistics_path(dataset.name, teacher), values, names=names)
