"""Untrusted JSON: bytes to plain values in bounds, and typed reading of objects; anything else is one clear error.

Python's parser alone gives more than JSON has (NaN, infinity, the last of equal keys) and fails in ways of its own on
deep nesting and long numbers. Whoever reads JSON that codistill did not just write reads it here.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from store import errors

MAX_DEPTH = 64
MAX_NUMBER = 2**64
SHOWN_CHARACTERS = 60

JsonError = Callable[[str], Exception]


def parse(data: bytes | str, *, where: str) -> Any:
    """Return the value of a JSON document.

    Args:
        data: the document, UTF-8.
        where: name of the document, for the error.

    Raises:
        errors.Damaged: it is not strict JSON, nested deeper than 64 levels, or holds a number beyond 2**64 or half a
            character.
    """
    try:
        value = json.loads(
            data if isinstance(data, str) else data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
        )
        _check_values(value)
    except RecursionError:
        raise errors.Damaged(f"{where} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise errors.Damaged(f"{where} is not JSON: {error}") from None
    return value


def parse_object(data: bytes | str, *, where: str) -> dict[str, Any]:
    """Return the value of a JSON document that must be an object; raises as `parse`."""
    value = parse(data, where=where)
    if not isinstance(value, dict):
        raise errors.Damaged(f"{where}: expected a JSON object, found {shown(value)}")
    return value


class Fields:
    """Typed reading of a JSON object; a value of another type or out of bounds is an error that names it.

    Args:
        values: the object.
        where: name of the document and of the object in it, for errors, for example `'a/zarr.json': codistill`.
        error: makes the exception from a message.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str, error: JsonError = errors.Damaged) -> None:
        self._values, self._where, self._error = values, where, error

    def invalid(self, name: str, expected: str) -> Exception:
        """Return the error about a value."""
        stored = shown(self._values[name]) if name in self._values else "nothing"
        return self._error(f"{self._where}.{name}: expected {expected}, found {stored}")

    def integer(self, name: str, *, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        value = self._values.get(name)
        if not isinstance(value, int) or not is_integer(value, low=low, high=high):
            raise self.invalid(name, f"an integer from {low} to {high}")
        return value

    def integers(self, name: str, *, low: int, high: int, lengths: range) -> tuple[int, ...]:
        """Return a list of integers from `low` to `high`, both included, of one of the `lengths`."""
        value = self._values.get(name)
        fits = isinstance(value, list) and len(value) in lengths
        if not fits or not all(is_integer(item, low=low, high=high) for item in value or ()):
            count = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
            raise self.invalid(name, f"a list of {count} integers from {low} to {high}")
        return tuple(value or ())

    def text(self, name: str, *, allowed: Iterable[str] = (), max_length: int = 1024) -> str:
        """Return a text: one of `allowed`, or any printable one if that is empty."""
        value, choices = self._values.get(name), tuple(allowed)
        if choices and value not in choices:
            raise self.invalid(name, f"one of {', '.join(map(repr, choices))}")
        if not isinstance(value, str) or not value.isprintable() or len(value) > max_length:
            raise self.invalid(name, f"a printable text of at most {max_length} characters")
        return value

    def hexadecimal(self, name: str, *, digits: int) -> str:
        """Return a text of hexadecimal digits, as of a sha256."""
        value = self._values.get(name)
        if not isinstance(value, str) or not is_hexadecimal(value, digits=digits):
            raise self.invalid(name, f"{digits} hexadecimal digits")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of printable texts."""
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) and item.isprintable() for item in value):
            raise self.invalid(name, "a list of printable texts")
        return tuple(value)

    def mapping(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """Return an object; an empty one if it is `optional` and absent."""
        value = self._values.get(name, {} if optional else None)
        if not isinstance(value, dict):
            raise self.invalid(name, "an object")
        return value


def is_integer(value: Any, *, low: int, high: int) -> bool:
    """Return whether a JSON value is an integer from `low` to `high`, both included; true and false are not."""
    return type(value) is int and low <= value <= high


def is_hexadecimal(text: str, *, digits: int) -> bool:
    """Return whether a text is `digits` hexadecimal digits, small letters."""
    return len(text) == digits and all(character in "0123456789abcdef" for character in text)


def shown(value: Any) -> str:
    """Return a JSON value for a message, cut short."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {shown(name)} appears twice")
    return values


def _integer(text: str) -> int:
    if len(text) > 21 or abs(int(text)) > MAX_NUMBER:
        raise ValueError(f"number {text[:SHOWN_CHARACTERS]} is out of bounds")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:SHOWN_CHARACTERS]} is out of bounds")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON value")


def _check_values(value: Any) -> None:
    """Check depth and texts, level by level: a value that passes can be written and compared without surprises."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii():
                item.encode("utf-8")
        if not below:
            return
        level = below
    raise RecursionError
