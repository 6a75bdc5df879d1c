"""What can be known to be wrong before any work starts, all at once."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from extract.catalogue import DatasetEntry, TeacherEntry, unset_variable
from store import Cache, errors
from store.common import config
from store.format import schema


def choose(names: Sequence[str], known: Sequence[str], *, option: str) -> tuple[list[str], list[str]]:
    """The names asked for, in catalogue order (all if none is), and a problem for each unknown one."""
    problems = [
        f"{option}: '{name}' is unknown{config.near_miss(name, known)}; available: {', '.join(known) or 'none'}"
        for name in names
        if name not in known
    ]
    return [name for name in known if not names or name in names], problems


def image_problems(entries: Sequence[DatasetEntry]) -> list[str]:
    """Datasets whose images are not where the catalogue says."""
    problems = []
    for entry in entries:
        problems += _path_problems(f"dataset '{entry.name}': root", entry.root, folder=True)
        if entry.list_file is not None:
            problems += _path_problems(f"dataset '{entry.name}': list", entry.list_file)
    return problems


def weight_problems(entries: Sequence[TeacherEntry]) -> list[str]:
    """Teachers whose weight files are not where the catalogue says."""
    return [
        problem for entry in entries for problem in _path_problems(f"teacher '{entry.name}': weights", entry.weights)
    ]


def stored_problems(cache: Cache, entries: Sequence[DatasetEntry]) -> list[str]:
    """Datasets that were not indexed, or were indexed from another entry."""
    problems = []
    available = cache.datasets
    for entry in entries:
        if entry.name not in available:
            problems.append(f"dataset '{entry.name}' is not in {cache.location} yet. Run stage index first")
            continue
        dataset = cache[entry.name]
        asked = {name: getattr(entry, name) for name in ("group", "split", "mode", "views", "first_view")}
        stored = {name: getattr(dataset, name) for name in asked}
        asked["rotate"] = [rule.model_dump() for rule in entry.rotate]
        stored["rotate"] = dataset.source.get("rotate", [])
        problems += [f"dataset '{entry.name}': {line}" for line in schema.differences(stored, asked)]
    return problems


def refuse(problems: Iterable[str]) -> None:
    """Raise errors.InvalidConfig if there are problems."""
    found = list(problems)
    if found:
        raise errors.InvalidConfig("this job cannot start", found)


def _path_problems(what: str, path: Path, *, folder: bool = False) -> list[str]:
    variable = unset_variable(path)
    if variable is not None and not path.exists():
        return [f"{what} '{path}': the environment variable {variable} is not set"]
    if folder and not path.is_dir():
        return [f"{what} '{path}': no such folder"]
    if not folder and not path.is_file():
        return [f"{what} '{path}': no such file"]
    return []


def free_bytes(target: str | None) -> int | None:
    """Space at a path that need not exist yet; None for other places."""
    if target is None or "://" in target:
        return None
    folder = Path(target).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
