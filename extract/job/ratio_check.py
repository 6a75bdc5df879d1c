"""Check of a teacher's ratio before work: whether it can be met, and whether it is that of the codes in the cache."""

from collections.abc import Mapping, Sequence
from typing import Any

from extract.catalogue import DatasetEntry, TeacherEntry
from store import Cache, errors
from store.cache.shared_code import stored_specs
from store.common.text import some
from store.format import code_sizes

EXITS = (
    "Ask for what is stored, give the teacher another name, make another cache with `codistill store compact`, or "
    "delete these tokens with `codistill store delete` in all training datasets"
)


def ratio_problems(
    entry: TeacherEntry,
    description: Mapping[str, Any],
    cache: Cache | None,
    datasets: Sequence[DatasetEntry],
    *,
    deleted: Sequence[str],
    stages: Sequence[str],
) -> list[str]:
    """Return what prevents that training datasets get codes of a teacher's ratio, or float16 if it has none.

    Args:
        entry: teacher.
        description: shape of its tokens, as keywords of `Dataset.create_teacher`.
        cache: existing cache; None if there is none.
        datasets: datasets of the job.
        deleted: names of datasets whose tokens will be deleted first.
        stages: stages of the job.
    """
    problems = [] if entry.ratio is None else _unreachable(entry, entry.ratio, description)
    kept = [dataset for dataset in cache or () if dataset.name not in deleted and entry.name in dataset.teachers]
    codes = (
        {name: spec for name, spec in stored_specs(cache, entry.name).items() if name not in deleted} if cache else {}
    )
    asked = "float16" if entry.ratio is None else f"ratio {entry.ratio:g}"
    train = {dataset.name for dataset in datasets if dataset.split == "train"}
    if entry.ratio is not None:
        others = [name for name, spec in codes.items() if spec.ratio != entry.ratio]
        if others:
            stored = codes[others[0]].ratio
            problems.append(
                f"teacher '{entry.name}': {asked}, but {some(others)} holds codes of ratio {stored:g}. {EXITS}"
            )
        plain = [dataset.name for dataset in kept if dataset.name in train and dataset.name not in codes]
        if plain:
            problems.append(f"teacher '{entry.name}': {asked}, but {some(plain)} holds its tokens in float16. {EXITS}")
        if train and not codes and "features" in stages and "calibrate" not in stages:
            problems.append(f"teacher '{entry.name}': {asked}, and no code yet. Run stage calibrate first")
    elif coded := sorted(train & set(codes)):
        stored = codes[coded[0]].ratio
        problems.append(f"teacher '{entry.name}': {asked}, but {some(coded)} holds codes of ratio {stored:g}. {EXITS}")
    return problems


def _unreachable(entry: TeacherEntry, ratio: float, description: Mapping[str, Any]) -> list[str]:
    sizes = {name: description[name] for name in ("prefix_tokens", "patch_grid", "channels")}
    try:
        code_sizes.kept_patches(ratio, **sizes)
    except errors.InvalidInput as error:
        return [f"teacher '{entry.name}': {error}"]
    return []
