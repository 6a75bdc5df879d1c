"""The code of a teacher, which all training datasets of a cache share, so that one matrix decodes a batch of any."""

from typing import Any

from store import errors
from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.common.text import some
from store.format.code import Code
from store.format.code_spec import CodeSpec


def stored_code(cache: Cache, teacher: str) -> Code | None:
    """Return the code of a teacher in this cache, which all of its datasets share; None if it has none yet.

    Raises:
        errors.Conflict: its datasets have different codes.
        errors.Damaged: the arrays of the code are not those recorded, in any dataset.
    """
    specs = stored_specs(cache, teacher)
    digests = {spec.digest for spec in specs.values()}
    if len(digests) > 1:
        listed = some(f"'{name}' {spec.digest[:12]}" for name, spec in specs.items())
        raise errors.Conflict(
            f"'{teacher}' has {len(digests)} codes in {cache.location}: {listed}. A cache has one: delete the datasets "
            f"with the other, with `codistill store delete`"
        )
    failure: errors.Damaged | None = None
    for name in specs:
        try:
            return cache.part(name).code(teacher)
        except errors.Damaged as error:  # perhaps the job that wrote it was killed
            failure = error
    if failure is not None and any(cache.part(name).present(teacher) for name in specs):
        raise failure
    return None


def stored_specs(cache: Cache, teacher: str) -> dict[str, CodeSpec]:
    """Return what is recorded of a teacher's code, by the stored name of each dataset and part."""
    found = {part.name: part.teacher(teacher).code for part in cache.parts() if teacher in part.teachers}
    return {name: spec for name, spec in found.items() if spec is not None}


def freeze(dataset: Dataset, code: Code, teacher: str, description: dict[str, Any], *, first: bool) -> Code:
    """Record a code in a dataset by create-if-absent; return the code that is recorded.

    Args:
        dataset: training dataset.
        code: code to record.
        teacher: name of the teacher.
        description: what else is recorded of the teacher, as keywords of `Dataset.create_teacher`.
        first: whether it is the first dataset of a new code: if another job came first, its code counts.

    Raises:
        errors.Conflict: another code, or float16 tokens, are recorded.
    """
    try:
        dataset.create_teacher(teacher, **description, code=code)
    except errors.Conflict:
        if not first or dataset.teacher(teacher).code is None:
            raise
        code = dataset.code(teacher)
        dataset.create_teacher(teacher, **description, code=code)
    return code
