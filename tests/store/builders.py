"""Small caches with known content, and arrays of any shape and type written by our low-level writer."""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import store
from store.cache.row_reads import ReadContext, RowRead, plan_reads
from store.cache.writer import ShardPlan, ShardWriter
from store.common.threads import ThreadTeam
from store.format import manifest, schema
from store.format.layout import ShardLayout
from store.format.schema import FAILED, OK, ArrayNode
from store.storage.local import LocalStorage

IMAGE_SIZE = 6
PATCH_GRID = (2, 3)
PREFIX_TOKENS = 1
CHANNELS = 5


def image_list(count: int) -> pa.Table:
    indices = np.arange(count)
    paths = [f"folder/{i}.png" for i in indices]
    return pa.table({"image_index": indices, "path": paths, "bytes": indices * 10 + 1})


def make_dataset(
    path: Path, *, name: str = "bedlam", images: int = 5, views: int = 2, shard_rows: int = 4
) -> store.Dataset:
    """A cache at `path` with one empty dataset and one teacher 't'."""
    cache = store.create(path, {"image_size": IMAGE_SIZE, "shard_rows": shard_rows})
    dataset = cache.create_dataset(
        name, images=image_list(images), group="people", split="train", mode="train", views=views
    )
    add_teacher(dataset)
    return dataset


def add_teacher(dataset: store.Dataset, name: str = "t", **changes: Any) -> store.TeacherInfo:
    arguments: dict[str, Any] = {
        "identity": {"model": "tiny", "weights": "abc"},
        "groups": ["people"],
        "patch_grid": PATCH_GRID,
        "prefix_tokens": PREFIX_TOKENS,
        "channels": CHANNELS,
    }
    return dataset.create_teacher(name, **(arguments | changes))


def rewrite_document(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the parsed zarr.json of a group or of rows in place, and write it with a checksum that holds."""
    document = json.loads(path.read_text())
    del document["attributes"][schema.CHECKSUM_ATTRIBUTE]
    change(document)
    path.write_bytes(schema.signed(document))


def pixels_of(row: int) -> np.ndarray:
    return np.random.default_rng([1, row]).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


def tokens_of(row: int, name: str = "t") -> np.ndarray:
    tokens = PREFIX_TOKENS + PATCH_GRID[0] * PATCH_GRID[1]
    values = np.random.default_rng([2, row, *name.encode()]).standard_normal((tokens, CHANNELS))
    return (values * 3 + 1).astype(np.float16)


def manifest_rows(dataset: store.Dataset, rows: Iterable[int], failed: Collection[int] = ()) -> pa.Table:
    rows = list(rows)
    columns: dict[str, Any] = {field.name: [None] * len(rows) for field in manifest.SCHEMA}
    columns |= {
        "row": rows,
        "dataset": [dataset.name] * len(rows),
        "image_index": [row // dataset.views for row in rows],
        "path": [f"folder/{row // dataset.views}.png" for row in rows],
        "view": [row % dataset.views + dataset.first_view for row in rows],
        "status": [FAILED if row in failed else OK for row in rows],
        "error": ["decode: broken" if row in failed else None for row in rows],
    }
    return pa.table(columns, schema=manifest.SCHEMA)


def write_pixels(dataset: store.Dataset, shard: int, failed: Collection[int] = ()) -> bool:
    rows = dataset.shard_rows_of(shard)
    with dataset.write_shard("pixels", shard, provenance={"numpy": "any"}) as writer:
        for row in rows:
            if row in failed:
                writer.fail("decode: broken")
            else:
                writer.append(pixels_of(row))
        return writer.finish(manifest_rows(dataset, rows, failed))


def write_tokens(dataset: store.Dataset, shard: int, failed: Collection[int] = (), name: str = "t") -> bool:
    digest = dataset.read_trailer("pixels", shard).digest
    with dataset.write_shard(name, shard, provenance={"device": "cpu"}, pixels_digest=digest) as writer:
        for row in dataset.shard_rows_of(shard):
            if row in failed:
                writer.fail("overflow: channel 3")
            else:
                writer.append(tokens_of(row, name))
        return writer.finish()


def fill(dataset: store.Dataset, *, failed_pixels: Collection[int] = (), failed_tokens: Collection[int] = ()) -> None:
    for shard in range(dataset.shards):
        assert write_pixels(dataset, shard, failed_pixels)
        assert write_tokens(dataset, shard, set(failed_pixels) | set(failed_tokens))


def write_array(
    storage: LocalStorage, path: str, values: np.ndarray, *, shard_rows: int, failed: Collection[int] = ()
) -> ArrayNode:
    """Write any array of rows with the shard writer; the last axis is named channel."""
    names = ["row", *(f"axis{i}" for i in range(values.ndim - 2)), "channel"]
    document = schema.array_document(
        shape=values.shape, dtype=values.dtype, dimension_names=names, shard_rows=shard_rows, attributes={}
    )
    storage.put_if_absent(f"{path}/zarr.json", document)
    node = schema.parse_array(path, document)
    layout = ShardLayout.of(values.shape, values.dtype, shard_rows)
    for shard in range(layout.shards):
        plan = ShardPlan(
            dataset="any",
            array="any",
            shard=shard,
            node=node,
            layout=layout,
            prefix_tokens=None,
            identity_digest="00",
            pixels_digest=None,
            provenance={},
        )
        with ShardWriter(storage, plan) as writer:
            for row in layout.rows_of(shard):
                if row in failed:
                    writer.fail("test: left out")
                else:
                    writer.append(values[row])
            assert writer.finish()
    return node


def read_rows(storage: LocalStorage, node: ArrayNode, rows: Iterable[int], *, verify: bool = True) -> np.ndarray:
    """Read rows as `Dataset.read` does, without asking for their status."""
    index = np.array(list(rows), np.int64)
    out = np.empty((len(index), *node.row_shape), node.dtype)
    context = ReadContext(storage=storage, describe=lambda node: node.path, how_to_make=lambda node: "nothing")
    ThreadTeam(3).run(list(plan_reads(RowRead(node=node, rows=index, out=out, verify=verify), context)))
    return out
