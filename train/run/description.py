"""Content of a run's `cache.json`, checked: what its readers take for granted is there, of its type and in bounds."""

from typing import Any

from store.common.strict_json import Fields
from store.format.attributes import MAX_CHANNELS, MAX_GRID_SIDE, MAX_IMAGE_SIZE_PX, MAX_PREFIX_TOKENS, SPLITS
from store.format.schema import CODES, MAX_ROWS


def check(description: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return a description of caches if it is one.

    Args:
        description: JSON object.
        where: name of its file, for errors.

    Raises:
        Damaged: a value is absent, of another type or out of bounds; expected and found are shown.
    """
    fields = Fields(description, where=where)
    fields.integer("image_size", low=1, high=MAX_IMAGE_SIZE_PX)
    teachers = fields.mapping("teachers")
    for name in teachers:
        _check_teacher(Fields(Fields(teachers, where=f"{where}.teachers").mapping(name), where=f"{where}.{name}"))
    caches = description.get("caches")
    if not teachers or not isinstance(caches, list) or not caches:
        raise fields.invalid("teachers" if not teachers else "caches", "at least one")
    for number, cache in enumerate(caches):
        place = f"{where}.caches[{number}]"
        _check_cache(Fields(cache if isinstance(cache, dict) else {}, where=place), where=place)
    return description


def _check_teacher(fields: Fields) -> None:
    fields.mapping("identity")
    fields.text("identity_digest")
    fields.texts("groups")
    fields.integers("patch_grid", low=1, high=MAX_GRID_SIDE, lengths=range(2, 3))
    fields.integer("prefix_tokens", low=0, high=MAX_PREFIX_TOKENS)
    fields.integer("channels", low=1, high=MAX_CHANNELS)


def _check_cache(fields: Fields, *, where: str) -> None:
    fields.text("location", max_length=4096)
    fields.text("uuid")
    datasets = fields.mapping("datasets")
    for name in datasets:
        entry = Fields(datasets, where=f"{where}.datasets").mapping(name)
        own = Fields(entry, where=f"{where}.{name}")
        own.text("group")
        own.text("split", allowed=SPLITS)
        own.integer("rows", low=1, high=MAX_ROWS)
        own.mapping("status")
        if CODES in entry:
            codes = Fields(own.mapping(CODES), where=f"{where}.{name}.{CODES}")
            for teacher in own.mapping(CODES):
                codes.hexadecimal(teacher, digits=64)
