"""Checks of arguments that Python lets through: one line that says what was expected and what was found."""

import operator
from collections.abc import Iterable
from typing import Any

from store.errors import InvalidInput

SHOWN = 60  # characters of a value


def checked_names(what: str, value: Any) -> tuple[str, ...]:
    """Return the names of a list.

    Raises:
        InvalidInput: it is one text, no list, or holds something else than texts.
    """
    expected = f"{what}: expected a list of names, such as {what}=['a', 'b']"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidInput(f"{expected}, found {shown(value)}")
    names = tuple(value)
    others = [name for name in names if not isinstance(name, str)]
    if others:
        raise InvalidInput(f"{expected}, found {shown(others[0])} among them")
    return names


def checked_text(what: str, value: Any, *, example: str) -> str:
    """Return a text.

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{what}: expected a text, such as {example!r}, found {shown(value)}")
    return value


def checked_number(what: str, value: Any, *, least: int) -> int:
    """Return a whole number.

    Raises:
        InvalidInput: it is something else, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(f"{what}: expected a whole number, found {shown(value)}") from None
    if number < least:
        raise InvalidInput(f"{what}: expected at least {least}, found {number}")
    return number


def shown(value: Any) -> str:
    """Return a value as a message has it: one line, not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
