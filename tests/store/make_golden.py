"""Makes the committed cache of format 1: `python -m tests.store.make_golden tests/golden/store/cache-v1`.

It was run once. A newer version must read that cache as it is; writing it again would defeat its purpose.
"""

import sys
from pathlib import Path

import numpy as np

from tests.store import caches
from tests.store.caches import DatasetSpec, TeacherSpec

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


def main(folder: Path) -> None:
    """Write the cache and, beside it, `expected.npz`."""
    caches.make_cache(folder / "cache", DATASETS, TEACHERS)
    np.savez_compressed(folder / "expected.npz", **expected_rows())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
