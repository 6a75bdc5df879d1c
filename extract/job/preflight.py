"""Checks before a job starts: missing images and weights, datasets that differ from the catalogue, free space.

Functions return every problem they find, so that all of them are reported at once.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from extract.catalogue import DatasetEntry, TeacherEntry, ViewRecipe, unset_variable
from extract.job.folder_sizes import many_shards_note
from store import Cache, errors
from store.format import schema


def image_problems(entries: Sequence[DatasetEntry]) -> list[str]:
    """Return a problem for each dataset whose images are not where the catalogue says."""
    problems = []
    for entry in entries:
        problems += _path_problems(f"dataset '{entry.name}': root", entry.root, folder=True)
        if entry.list_file is not None:
            problems += _path_problems(f"dataset '{entry.name}': list", entry.list_file)
    return problems


def weight_problems(entries: Sequence[TeacherEntry]) -> list[str]:
    """Return a problem for each teacher whose weight file is not where the catalogue says."""
    return [
        problem
        for entry in entries
        if entry.random_seed is None
        for problem in _path_problems(f"teacher '{entry.name}': weights", entry.weights)
    ]


def recipe_problems(cache: Cache, recipe: ViewRecipe) -> list[str]:
    """Return a problem for each value of the recipe that differs from the cache's."""
    differing = schema.differences(cache.recipe, recipe.stored())
    return [f"cache {cache.location}: recipe.{line}" for line in differing]


def stored_problems(cache: Cache, entries: Sequence[DatasetEntry]) -> list[str]:
    """Return a problem for each dataset that is not indexed, or was indexed with other settings."""
    problems = []
    available = cache.datasets
    for entry in entries:
        if entry.name not in available:
            problems.append(f"dataset '{entry.name}' is not in {cache.location} yet. Run stage index first")
            continue
        dataset = cache[entry.name]
        asked = {name: getattr(entry, name) for name in ("group", "split", "mode", "views", "first_view")}
        stored = {name: getattr(dataset, name) for name in asked}
        for name, default in (("rotate", []), ("allow_damaged_jpeg", False)):
            asked[name] = entry.decoding().get(name, default)
            stored[name] = dataset.source.get(name, default)
        problems += [f"dataset '{entry.name}': {line}" for line in schema.differences(stored, asked)]
    return problems


def size_notes(entries: Sequence[DatasetEntry], recipe: ViewRecipe) -> list[str]:
    """Return sentences about sizes that a cache cannot change once it exists, from the expected numbers of images."""
    rows_of = {entry.name: (entry.expected_images or 0) * entry.views for entry in entries}
    note = many_shards_note(rows_of, shard_rows=recipe.shard_rows, image_size=recipe.image_size)
    return [] if note is None else [note]


def refuse(problems: Iterable[str]) -> None:
    """Raise errors.InvalidConfig if there are problems."""
    listed = list(problems)
    if listed:
        raise errors.InvalidConfig("this job cannot start", listed)


def free_bytes(target: str | None) -> int | None:
    """Return the free space at a path, which need not exist yet; None for a URL or for no target."""
    if target is None or "://" in target:
        return None
    folder = Path(target).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _path_problems(subject: str, path: Path, *, folder: bool = False) -> list[str]:
    variable = unset_variable(path)
    if variable is not None and not path.exists():
        return [f"{subject} '{path}': the environment variable {variable} is not set"]
    if folder and not path.is_dir():
        return [f"{subject} '{path}': no such folder"]
    if not folder and not path.is_file():
        return [f"{subject} '{path}': no such file"]
    return []
