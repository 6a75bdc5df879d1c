"""Flips of single bits in any file of a cache: what the files are, and what a reader makes of them."""

from pathlib import Path
from typing import Any, Literal

import store
from store import errors
from store.format.schema import PIXELS

Outcome = Literal["same values", "error", "other values"]


def files_by_kind(root: Path) -> dict[str, list[Path]]:
    """Return the files of a cache by what they are."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        folder, first = path.parent.name, path.relative_to(root).parts[0]
        kind = f"{first} of {folder}" if path.name == "zarr.json" else first if first != "features.zarr" else folder
        if path.name == "zarr.json":
            depth = len(path.relative_to(root).parts)
            kind = {2: "zarr.json of the root", 3: "zarr.json of a dataset"}.get(depth, f"zarr.json of {folder}")
            if depth == 4 and folder not in (PIXELS, "pixels_status"):
                kind = "zarr.json of a teacher"
        kinds.setdefault(kind, []).append(path)
    return kinds


def contents_for_readers(root: Path) -> list[Any]:
    """Return everything that a cache gives its readers."""
    cache = store.open(root)
    given: list[Any] = [cache.uuid, cache.recipe, cache.datasets]
    for dataset in cache:
        given += [dataset.group, dataset.split, dataset.mode, dataset.views, dataset.first_view, dataset.rows]
        given += [dataset.source, dataset.teachers, dataset.image_list().to_pylist(), dataset.manifest().to_pylist()]
        for teacher in dataset.teachers:
            patch = dataset.statistics(teacher).patch
            given += [dataset.teacher(teacher), patch.mean.tolist(), patch.m2.tolist()]
        for array in (PIXELS, *dataset.teachers):
            rows = dataset.valid_rows([array])
            given += [dataset.status(array).tolist(), dataset.read(rows, [array])[array].tobytes()]
    return given


def read(root: Path, expected: list[Any]) -> Outcome:
    """Read everything; return whether it is what it was, an error of ours, or something else."""
    try:
        return "same values" if contents_for_readers(root) == expected else "other values"
    except errors.CodistillError:
        return "error"
