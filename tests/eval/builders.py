"""A small sealed cache with two groups, two teachers, held-out views and held-out photographs; runs on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

import store
from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.format import manifest
from store.format.calibration_sample import CalibrationSample
from store.format.code import Code
from store.format.code_fit import fit_code
from train.loop import train
from train.recipe.config import overridden
from train.recipe.named import find

SIZE_PX = 56
CELL_PX = 14
GRID = (4, 4)
VIEWS = 8
NOTE = "These photographs are noise."
TEACHERS = {"alpha": (1, 12, ("people",)), "beta": (0, 10, ("scenes",))}  # prefix tokens, channels, groups


def teacher_tokens(name: str, pixels: np.ndarray) -> np.ndarray:
    """Return the tokens of a test teacher for (H, W, 3) pixels: fixed functions of each cell, (P + N, C) float32."""
    prefix_tokens, channels, _ = TEACHERS[name]
    cells = pixels.reshape(GRID[0], CELL_PX, GRID[1], CELL_PX, 3).transpose(0, 2, 1, 3, 4) / 255.0
    features = np.concatenate([cells.mean((2, 3)), cells.std((2, 3)), cells[:, :, 7, 7]], axis=-1).reshape(-1, 9)
    weight = np.random.default_rng(len(name)).normal(size=(9, channels))
    patches = np.tanh(2 * (features - 0.3) @ weight) + 0.5
    return np.concatenate([patches.mean(0, keepdims=True)] * prefix_tokens + [patches]).astype(np.float32)


def build_cache(path: Path, codes: Mapping[tuple[str, str], Code] | None = None, *, held_out: bool = True) -> Cache:
    """Two groups of photographs; each is trained on, held out as other views, and held out as other photographs.

    `codes` has the codes of some (dataset, teacher); all other tokens are stored as float16.
    """
    cache = store.create(path, {"image_size": SIZE_PX, "shard_rows": 16, "seed": 0})
    for group in ("people", "scenes"):
        seen = {f"{group}-{number}.jpg": 1000 + number for number in range(5)}
        new = {f"{group}-{number}.jpg": 2000 + number for number in range(5, 8)}
        add_dataset(cache, group, group=group, split="train", images=seen, codes=codes)
        if not held_out:
            continue
        # A held-out list may be mixed: one photograph of training among new ones, and a new one of a known name.
        mixed = {**new, f"{group}-0.jpg": 1000, f"{group}-1.jpg": 9999}
        add_dataset(cache, f"{group}-crops", group=group, split="val", images=seen, first_view=VIEWS, codes=codes)
        add_dataset(cache, f"{group}-mixed", group=group, split="val", images=mixed, first_view=VIEWS, codes=codes)
    store.seal(cache)
    return cache


def train_run(cache: Cache, out: Path, **overrides: Any) -> Path:
    """Train the `tiny` recipe for a few steps; `overrides` by section, as `optim={"lr": 1e-3}`."""
    wanted = {"log": {"tensorboard": False}, "schedule": {"steps": 20}, "data": {"batch": 16}, **overrides}
    train(overridden(find("tiny"), wanted, subject="test"), caches=[cache.location], out=out, quiet=True)
    return out


def code_of(teacher: str, *, ratio: float) -> Code:
    """A code of a test teacher, fitted to its tokens of noise."""
    pixels = np.random.default_rng(7).integers(0, 256, (64, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    tokens = np.stack([teacher_tokens(teacher, view) for view in pixels]).astype(np.float16)
    prefix = TEACHERS[teacher][0]
    sample = CalibrationSample(tokens=tokens, rows=np.arange(len(tokens)), prefix_tokens=prefix, patch_grid=GRID)
    return fit_code(sample, ratio=ratio)


def add_dataset(
    cache: Cache,
    name: str,
    *,
    group: str,
    split: Literal["train", "val"],
    images: dict[str, int],
    first_view: int = 0,
    codes: Mapping[tuple[str, str], Code] | None = None,
) -> Dataset:
    """Index, views and features of one dataset."""
    paths = list(images)
    table = pa.table({"image_index": range(len(paths)), "path": paths, "bytes": list(images.values())})
    dataset = cache.create_dataset(
        name,
        images=table,
        group=group,
        split=split,
        mode="train",
        views=VIEWS if split == "train" else 4,
        first_view=first_view,
        source={"note": NOTE} if group == "people" else None,
    )
    for teacher, (prefix_tokens, channels, groups) in TEACHERS.items():
        dataset.create_teacher(
            teacher,
            identity={
                "architecture": {"name": f"test_{teacher}"},
                "compute_dtype": "float32",
                "weights_sha256": "0" * 64,
            },
            groups=groups,
            patch_grid=GRID,
            prefix_tokens=prefix_tokens,
            channels=channels,
            code=(codes or {}).get((name, teacher)),
        )
    for shard in range(dataset.shards):
        _write_shard(dataset, shard, paths)
    return dataset


def _write_shard(dataset: Dataset, shard: int, paths: list[str]) -> None:
    rows = dataset.shard_rows_of(shard)
    views = [_view(paths[row // dataset.views], dataset.first_view + row % dataset.views) for row in rows]
    with dataset.write_shard("pixels", shard, provenance={}) as writer:
        for view in views:
            writer.append(view)
        writer.finish(_manifest(dataset, rows, paths))
    digest = dataset.read_trailer("pixels", shard).digest
    for teacher in TEACHERS:
        with dataset.write_shard(teacher, shard, provenance={}, pixels_digest=digest) as writer:
            for view in views:
                writer.append(teacher_tokens(teacher, view).astype(np.float16))
            writer.finish()


def _view(path: str, view: int) -> np.ndarray:
    """A crop of a photograph that depends on the file's name alone."""
    photograph = np.random.default_rng(list(Path(path).name.encode())).integers(0, 256, (12, 12, 3)).astype(np.float32)
    generator = np.random.default_rng([view, *Path(path).name.encode()])
    top, left = generator.integers(0, 4, 2)
    crop = photograph[top : top + 8, left : left + 8].repeat(7, 0).repeat(7, 1)
    return np.clip(crop + generator.normal(0, 4, crop.shape), 0, 255).astype(np.uint8)


def _manifest(dataset: Dataset, rows: range, paths: list[str]) -> pa.Table:
    filled = {
        "row": list(rows),
        "dataset": [dataset.name] * len(rows),
        "image_index": [row // dataset.views for row in rows],
        "path": [paths[row // dataset.views] for row in rows],
        "view": [dataset.first_view + row % dataset.views for row in rows],
        "status": [1] * len(rows),
        "crop_height": [40 + row % dataset.views for row in rows],
        "crop_width": [40] * len(rows),
    }
    return pa.table(
        {field.name: pa.array(filled.get(field.name, [None] * len(rows)), field.type) for field in manifest.SCHEMA}
    )
