"""Small sealed caches whose tokens are a fixed function of their pixels, so that there is something to learn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

import store
from store.format import manifest
from store.format.code import Code
from store.format.schema import FAILED, OK, PIXELS
from train.recipe.config import Recipe, overridden
from train.recipe.named import find

SIZE_PX, PATCH_PX = 28, 14


@dataclass(frozen=True, kw_only=True)
class Seer:
    """A teacher of the tests: `see` maps pixels (B, H, W, 3) to float16 tokens (B, P + N, C)."""

    prefix: int
    channels: int
    groups: tuple[str, ...]
    see: Callable[[np.ndarray], np.ndarray]


def mean_colours(pixels: np.ndarray, *, prefix: int, channels: int) -> np.ndarray:
    """Tokens that are linear in the mean colours of patches, so that there is something to learn."""
    count, size = len(pixels), pixels.shape[1] // PATCH_PX
    patches = pixels.reshape(count, size, PATCH_PX, size, PATCH_PX, 3).mean(axis=(2, 4)) / 255
    weights = np.random.default_rng(channels).normal(size=(3, channels))
    tokens = patches.reshape(count, -1, 3) @ weights + np.linspace(-1, 1, channels)
    if prefix:
        tokens = np.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
    return tokens.astype(np.float16)


def teacher_info(name: str = "teacher", *, channels: int, prefix_tokens: int) -> store.TeacherInfo:
    """A teacher of which the shape of its tokens alone is known, as in a DUNE checkpoint."""
    return store.TeacherInfo(
        name=name,
        identity={},
        identity_digest="",
        groups=(),
        patch_grid=(4, 4),
        prefix_tokens=prefix_tokens,
        channels=channels,
    )


TEACHERS = {
    "alpha": Seer(prefix=1, channels=8, groups=("people",), see=partial(mean_colours, prefix=1, channels=8)),
    "beta": Seer(prefix=0, channels=12, groups=("scenes",), see=partial(mean_colours, prefix=0, channels=12)),
}
DATASETS = {"faces": ("people", "train", 10), "rooms": ("scenes", "train", 7), "held": ("people", "val", 5)}


def tiny(**overrides: object) -> Recipe:
    """The recipe `tiny` with dotted keys replaced, written with `__` for the dot."""
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    return overridden(find("tiny"), values, subject="test recipe")


def build_cache(
    location: Path,
    *,
    datasets: Mapping[str, tuple[str, str, int]] = DATASETS,
    teachers: Mapping[str, Seer] = TEACHERS,
    failed: Mapping[tuple[str, str], Sequence[int]] | None = None,
    size_px: int = SIZE_PX,
    seed: int = 0,
    first_view: int = 0,
    codes: Mapping[str, Code] | None = None,
    coded_splits: Sequence[str] = ("train",),
) -> store.Cache:
    """Build and seal a cache.

    Args:
        location: directory.
        datasets: name -> (group, split, rows).
        teachers: by name.
        failed: (dataset, array) -> rows that failed.
        size_px: side of the pixels.
        seed: seed of the pixels; teachers are the same for every seed.
        first_view: number of the one view that it holds of each image.
        codes: teacher -> code that its tokens are stored in; the others are stored as float16.
        coded_splits: splits of the datasets whose tokens are stored in codes.
    """
    cache = store.create(location, {"image_size": size_px, "shard_rows": 4, "seed": seed})
    for number, (name, (group, split, rows)) in enumerate(datasets.items()):
        images = pa.table(
            {
                "image_index": pa.array(range(rows), pa.int64()),
                "path": [f"{name}/{row}.png" for row in range(rows)],
                "bytes": pa.array([1] * rows, pa.int64()),
            }
        )
        dataset = cache.create_dataset(
            name, images=images, group=group, split=split, mode="train", views=1, first_view=first_view
        )
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (rows, size_px, size_px, 3), dtype=np.uint8)
        bad = {array: set((failed or {}).get((name, array), ())) for array in (PIXELS, *teachers)}
        for teacher, seer in teachers.items():
            dataset.create_teacher(
                teacher,
                identity={"model": teacher},
                groups=seer.groups,
                patch_grid=(size_px // PATCH_PX, size_px // PATCH_PX),
                prefix_tokens=seer.prefix,
                channels=seer.channels,
                code=(codes or {}).get(teacher) if split in coded_splits else None,
            )
        for shard in range(dataset.shards):
            write_shard(dataset, shard, pixels, teachers, bad)
    store.seal(cache)
    return cache


def write_shard(
    dataset: store.Dataset, shard: int, pixels: np.ndarray, teachers: Mapping[str, Seer], bad: dict[str, set[int]]
) -> None:
    """Write a shard of pixels and the shards of all teachers' tokens; `bad` has the failed rows of each array."""
    rows = dataset.shard_rows_of(shard)
    bad = {array: bad.get(array, set()) for array in (PIXELS, *teachers)}
    with dataset.write_shard(PIXELS, shard, provenance={}) as writer:
        for row in rows:
            if row in bad[PIXELS]:
                writer.fail("decode: made to fail")
            else:
                writer.append(pixels[row])
        writer.finish(manifest=_manifest(dataset, rows, bad[PIXELS]))
    digest = dataset.read_trailer(PIXELS, shard).digest
    for teacher, seer in teachers.items():
        with dataset.write_shard(teacher, shard, provenance={}, pixels_digest=digest) as writer:
            for row in rows:
                if row in bad[teacher] or row in bad[PIXELS]:
                    writer.fail("overflow: made to fail")
                else:
                    writer.append(seer.see(pixels[row : row + 1])[0])
            writer.finish()


def _manifest(dataset: store.Dataset, rows: range, bad: set[int]) -> pa.Table:
    known = {
        "row": list(rows),
        "dataset": [dataset.name] * len(rows),
        "image_index": list(rows),
        "path": [f"{dataset.name}/{row}.png" for row in rows],
        "view": [dataset.first_view] * len(rows),
        "source_width": [100 + row for row in rows],
        "flip": [row % 2 == 1 for row in rows],
        "status": [FAILED if row in bad else OK for row in rows],
        "error": ["decode: made to fail" if row in bad else None for row in rows],
    }
    columns = {}
    for column in manifest.SCHEMA:
        values = known.get(column.name)
        if values is None:
            values = [None if column.nullable else False if pa.types.is_boolean(column.type) else 0] * len(rows)
        columns[column.name] = pa.array(values, column.type)
    return pa.table(columns, schema=manifest.SCHEMA)
