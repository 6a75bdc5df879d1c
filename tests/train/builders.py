"""Small sealed caches whose tokens are a fixed function of their pixels, so that there is something to learn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

import store
from store import manifest
from store.schema import PIXELS
from train.recipe import Recipe, overridden
from train.recipes import find

SIZE_PX, PATCH_PX = 28, 14
GRID = (SIZE_PX // PATCH_PX, SIZE_PX // PATCH_PX)
TEACHERS = {"alpha": (1, 8), "beta": (0, 12)}  # prefix tokens, channels
OWN = {"alpha": ("people",), "beta": ("scenes",)}


def tiny(**overrides: object) -> Recipe:
    """The recipe `tiny` with dotted keys replaced, written with `__` for the dot."""
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    return overridden(find("tiny"), values, subject="test recipe")


def build_cache(
    location: Path,
    *,
    datasets: Mapping[str, tuple[str, str, int]] | None = None,
    teachers: Sequence[str] = tuple(TEACHERS),
    failed: Mapping[tuple[str, str], Sequence[int]] | None = None,
    seed: int = 0,
) -> store.Cache:
    """Build and seal a cache.

    Args:
        location: directory.
        datasets: name -> (group, split, rows); by default two of training and one held out.
        teachers: names in `TEACHERS`.
        failed: (dataset, array) -> rows that failed.
        seed: of pixels; teachers are the same for every seed.
    """
    cache = store.create(location, {"image_size": SIZE_PX, "shard_rows": 4, "seed": seed})
    wanted = datasets or {
        "faces": ("people", "train", 10),
        "rooms": ("scenes", "train", 7),
        "held": ("people", "val", 5),
    }
    for number, (name, (group, split, rows)) in enumerate(wanted.items()):
        images = pa.table(
            {
                "image_index": pa.array(range(rows), pa.int64()),
                "path": [f"{name}/{row}.png" for row in range(rows)],
                "bytes": pa.array([1] * rows, pa.int64()),
            }
        )
        dataset = cache.create_dataset(name, images=images, group=group, split=split, mode="train", views=1)
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (rows, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        bad = {array: set((failed or {}).get((name, array), ())) for array in (PIXELS, *teachers)}
        for teacher in teachers:
            prefix, channels = TEACHERS[teacher]
            dataset.create_teacher(
                teacher,
                identity={"model": teacher},
                groups=OWN[teacher],
                patch_grid=GRID,
                prefix_tokens=prefix,
                channels=channels,
            )
        for shard in range(dataset.shards):
            _write_shard(dataset, shard, pixels, teachers, bad)
    store.seal(cache)
    return cache


def tokens_of(pixels: np.ndarray, teacher: str) -> np.ndarray:
    """What `teacher` sees in pixels (B, H, W, 3): float16 (B, P + N, C), linear in the mean colours of patches."""
    prefix, channels = TEACHERS[teacher]
    rows, columns = GRID
    patches = pixels.reshape(len(pixels), rows, PATCH_PX, columns, PATCH_PX, 3).mean(axis=(2, 4)) / 255
    weights = np.random.default_rng(channels).normal(size=(3, channels))
    tokens = patches.reshape(len(pixels), -1, 3) @ weights + np.arange(channels)
    if prefix:
        tokens = np.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
    return tokens.astype(np.float16)


def _write_shard(
    dataset: store.Dataset, shard: int, pixels: np.ndarray, teachers: Sequence[str], bad: Mapping[str, set[int]]
) -> None:
    rows = dataset.shard_rows_of(shard)
    with dataset.write_shard(PIXELS, shard, provenance={}) as writer:
        for row in rows:
            if row in bad[PIXELS]:
                writer.fail("decode: made to fail")
            else:
                writer.append(pixels[row])
        writer.finish(manifest=_manifest(dataset, rows, bad[PIXELS]))
    digest = dataset.read_trailer(PIXELS, shard).digest
    for teacher in teachers:
        with dataset.write_shard(teacher, shard, provenance={}, pixels_digest=digest) as writer:
            for row in rows:
                if row in bad[teacher] or row in bad[PIXELS]:
                    writer.fail("overflow: made to fail")
                else:
                    writer.append(tokens_of(pixels[row : row + 1], teacher)[0])
            writer.finish()


def _manifest(dataset: store.Dataset, rows: range, bad: set[int]) -> pa.Table:
    known = {
        "row": list(rows),
        "dataset": [dataset.name] * len(rows),
        "image_index": list(rows),
        "path": [f"{dataset.name}/{row}.png" for row in rows],
        "view": [0] * len(rows),
        "status": [store.schema.FAILED if row in bad else store.schema.OK for row in rows],
        "error": ["decode: made to fail" if row in bad else None for row in rows],
    }
    columns = {}
    for column in manifest.SCHEMA:
        values = known.get(column.name)
        if values is None:
            values = [None if column.nullable else False if pa.types.is_boolean(column.type) else 0] * len(rows)
        columns[column.name] = pa.array(values, column.type)
    return pa.table(columns, schema=manifest.SCHEMA)
