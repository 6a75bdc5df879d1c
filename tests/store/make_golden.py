"""Makes the committed caches of format 1: `python -m tests.store.make_golden tests/golden/store/cache-v1`.

It was run once for each (`cache-jpeg`: pixels as JPEG, `cache-codes`: tokens as codes). A newer version must read these
caches as they are; writing them again would defeat their purpose.
"""

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import store
from tests.store import caches
from tests.store.caches import CODED_TEACHERS, DatasetSpec, TeacherSpec

DATASETS = (
    DatasetSpec("people", "people", images=3, views=2, failed={3}, failed_tokens={"dinov2": {4}}),
    DatasetSpec("rooms", "scenes", images=2, split="val", first_view=3),
)
TEACHERS = (TeacherSpec("dinov2", 1, 6, ("generic",)), TeacherSpec("mast3r", 0, 4, ("scenes",)))


def expected_rows() -> dict[str, np.ndarray]:
    """Return the values that the cache must give back, by `dataset.array.row`, without asking the store."""
    rows = {}
    for dataset in DATASETS:
        for row in range(dataset.images * dataset.views):
            if row in dataset.failed:
                continue
            pixels = caches.pixels_of(dataset.name, row, dataset.views)
            rows[f"{dataset.name}.pixels.{row}"] = pixels
            for teacher in TEACHERS:
                if row not in dataset.failed_tokens.get(teacher.name, ()):
                    rows[f"{dataset.name}.{teacher.name}.{row}"] = caches.tokens_of(teacher, pixels)
    return rows


def expected_jpeg_rows() -> dict[str, np.ndarray]:
    """Return the same of a cache whose pixels are JPEG, by Pillow alone: tokens come from the decoded pixels."""
    rows = {}
    for row in range(DATASETS[1].images):
        file = io.BytesIO()
        Image.fromarray(caches.pixels_of("rooms", row, 1)).save(file, "JPEG", quality=95, subsampling=0)
        rows[f"rooms.pixels.{row}"] = np.asarray(Image.open(file))
        rows[f"rooms.mast3r.{row}"] = caches.tokens_of(TEACHERS[1], rows[f"rooms.pixels.{row}"])
    return rows


def make_codes(location: Path) -> store.Cache:
    """Write a cache whose training rows are stored in codes, and its held-out rows as float16, of the same teachers."""
    cache = caches.create_datasets(location, DATASETS)
    for spec in DATASETS:
        for shard in range(cache[spec.name].shards):
            caches.write_pixels(cache, spec, shard)
            for teacher in CODED_TEACHERS:
                ratio = teacher.ratio if spec.split == "train" else None
                caches.write_tokens(cache, spec, replace(teacher, ratio=ratio), shard)
    store.seal(cache)
    return cache


def expected_codes(people: store.Dataset) -> dict[str, np.ndarray]:
    """Return true tokens, codes and decoded tokens, by `kind.array.row`; how to decode is a test of its own."""
    expected: dict[str, np.ndarray] = {}
    for teacher in CODED_TEACHERS:
        for row in people.valid_rows([teacher.name]).tolist():
            codes = people.read([row], [teacher.name], raw=True)[teacher.name]
            key = f"{teacher.name}.{row}"
            expected[f"true.{key}"] = caches.tokens_of(teacher, caches.pixels_of("people", row, people.views))
            expected[f"codes.{key}"] = codes[0]
            expected[f"decoded.{key}"] = caches.code_of(teacher).decode(codes, np.array([row]))[0]
    return expected


def main(folder: Path) -> None:
    """Write the cache and, beside it, `expected.npz`."""
    if folder.name == "cache-codes":
        expected = expected_codes(make_codes(folder / "cache")["people"])
        np.savez_compressed(folder / "expected.npz", **expected)
        return
    jpeg = folder.name == "cache-jpeg"
    datasets, teachers = (DATASETS[1:], TEACHERS[1:]) if jpeg else (DATASETS, TEACHERS)
    caches.make_cache(folder / "cache", datasets, teachers, jpeg=jpeg)
    np.savez_compressed(folder / "expected.npz", **(expected_jpeg_rows() if jpeg else expected_rows()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
