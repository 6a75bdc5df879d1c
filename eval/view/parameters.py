"""Parameters of requests: read, bounded, and refused in one line."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import InvalidInput

MOST_ITEMS = 4096


class Parameters:
    """The query of one request.

    Args:
        query: texts by name; an empty text counts as absent.
    """

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = {name: text for name, text in query.items() if text != ""}

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        return self._query.get(name, default)

    def required(self, name: str) -> str:
        """Return a text that must be there.

        Raises:
            InvalidInput: it is absent.
        """
        if name not in self._query:
            raise InvalidInput(f"{name}: missing. Give it in the address")
        return self._query[name]

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of some texts, the first if it is absent.

        Raises:
            InvalidInput: it is another.
        """
        text = self.text(name, choices[0])
        if text not in choices:
            raise InvalidInput(f"{name}: expected one of {', '.join(choices)}, found '{text[:40]}'")
        return text

    def number(self, name: str, default: int | None = None, *, least: int = 0, most: int = 2**53) -> int:
        """Return a whole number.

        Raises:
            InvalidInput: it is absent without a default, no number, or out of bounds.
        """
        text = self.text(name)
        if not text and default is not None:
            return default
        return _number(name, self.required(name), least=least, most=most)

    def numbers(self, name: str, *, most_items: int = MOST_ITEMS) -> list[int]:
        """Return whole numbers that are separated by commas.

        Raises:
            InvalidInput: one is no number, or they are too many.
        """
        items = _items(name, self.text(name), most_items)
        return [_number(name, item, least=0, most=2**53) for item in items]

    def places(self, name: str, *, most_items: int, dataset: str = "") -> list[tuple[str, int]]:
        """Return rows written as `DATASET:ROW`, separated by commas.

        Args:
            name: name of the parameter.
            most_items: how many there may be.
            dataset: dataset of a row that is written without one; none may be if it is empty.

        Raises:
            InvalidInput: one is not written so, or they are too many.
        """
        places = []
        for item in _items(name, self.text(name), most_items):
            written, colon, row = item.rpartition(":")
            if not colon and not dataset:
                raise InvalidInput(f"{name}: expected DATASET:ROW, found '{item[:40]}'")
            places.append((written if colon else dataset, _number(name, row, least=0, most=2**53)))
        return places


def base64_of(values: npt.NDArray[Any], dtype: str) -> str:
    """Return the little-endian bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def finite(value: float | None) -> float | None:
    """Return a number as JSON has it: None stands for NaN and infinity."""
    return None if value is None or not np.isfinite(value) else float(value)


def _items(name: str, text: str, most: int) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if len(items) > most:
        raise InvalidInput(f"{name}: at most {most} at once, found {len(items)}")
    return items


def _number(name: str, text: str, *, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 16:
        raise InvalidInput(f"{name}: expected a whole number, found '{text[:40]}'")
    number = int(text)
    if not least <= number <= most:
        raise InvalidInput(f"{name}: expected a number from {least} to {most}, found {number}")
    return number
