"""Check of all teachers of a job before its first row is made: each is built from its weights on the CPU, one by one.

Seconds for each, instead of an error after hours of views.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from extract.catalogue import TeacherEntry
from extract.job import preflight
from extract.job.ratio_check import ratio_problems
from extract.job.selection import Selection, existing_cache
from extract.teachers.base import Teacher
from extract.teachers.loading import build_teacher
from store import Cache, errors
from store.common.text import some
from store.format import schema


def check(selection: Selection, *, overwrite: bool = False) -> None:
    """Build every teacher of a job, and compare it with what the cache holds under its name.

    Args:
        selection: job from `selection.check`.
        overwrite: whether stored tokens will be deleted first, so that they cannot differ.

    Raises:
        errors.InvalidConfig: unknown models, weights that cannot be read or do not fit, image sizes that a teacher
            does not take, another identity, other groups or another ratio than are stored, a ratio that cannot be met;
            all of them are listed.
    """
    cache = existing_cache(selection.job.cache)
    deleted = selection.datasets if overwrite else ()
    problems = list(selection.teacher_problems)
    for entry in selection.teacher_entries:
        if not preflight.weight_problems([entry]):
            problems += _problems(selection, entry, cache, deleted)
    preflight.refuse(problems)


def description(entry: TeacherEntry, teacher: Teacher, *, image_size: int) -> dict[str, Any]:
    """Return what a cache stores of a teacher, as keywords of `Dataset.create_teacher`."""
    return {
        "identity": schema.plain_json(teacher.identity(image_size)),
        "groups": entry.groups,
        "patch_grid": teacher.patch_grid(image_size, image_size),
        "prefix_tokens": teacher.prefix_tokens,
        "channels": teacher.channels,
    }


def _problems(selection: Selection, entry: TeacherEntry, cache: Cache | None, deleted: Sequence[str]) -> list[str]:
    image_size = selection.job.catalogue.recipe.image_size
    try:
        teacher = build_teacher(entry)
        asked = description(entry, teacher, image_size=image_size)
        rows, cols = asked["patch_grid"]
        teacher.fit((rows * teacher.patch_size, cols * teacher.patch_size))
    except (errors.CodistillError, OSError) as error:
        return [f"teacher '{entry.name}': {error}"]
    differing: defaultdict[str, list[str]] = defaultdict(list)
    for name in selection.datasets if cache is not None else ():
        if cache is not None and name not in deleted and name in cache.datasets and entry.name in cache[name].teachers:
            stored = {key: getattr(cache[name].teacher(entry.name), key) for key in asked}
            difference = "; ".join(schema.differences(schema.plain_json(stored), schema.plain_json(asked)))
            if difference:
                differing[difference].append(f"'{name}/{entry.name}'")
    exits = "Give the teacher another name, or make another cache"
    ratio = ratio_problems(entry, asked, cache, selection.dataset_entries, deleted=deleted, stages=selection.job.stages)
    return ratio + [
        f"{some(names)} exist{'s and differs' if len(names) == 1 else ' and differ'}. {difference}. {exits}"
        for difference, names in differing.items()
    ]
