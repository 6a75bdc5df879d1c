"""The values of a recipe as options of a command line."""

from collections.abc import Collection
from dataclasses import field, make_dataclass
from typing import Any

from pydantic import BaseModel


def unvalidated(section: BaseModel, *, leave_out: Collection[str] = ()) -> Any:
    """Return a dataclass instance with the fields, values and help of a recipe's section, but no validation.

    All problems of a command line are then found together, where the recipe is built of it, with the messages that
    files get.

    Args:
        section: recipe whose values are the defaults.
        leave_out: names of fields that are no options.
    """
    fields: list[tuple[str, Any, Any]] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if name in leave_out:
            continue
        if isinstance(value, BaseModel):
            inner = unvalidated(value)
            fields.append((name, type(inner), field(default=inner)))
        else:
            fields.append((name, info.annotation, field(default=value)))
    mirror = make_dataclass(type(section).__name__, fields, frozen=True)
    mirror.__doc__ = type(section).__doc__
    return mirror()
