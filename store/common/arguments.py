"""Lists on the command line: `a,b` and `a b` mean the same everywhere, as an option's value and as positionals."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from store import errors

NUMBER = re.compile(r"-\d")


class _Separated:
    """Mark of a text that lists items with commas, such as `--datasets a,b`."""


COMMAS = _Separated()
"""In `Annotated[str, COMMAS, ...]`: a text of items; parsed by `names_of`."""


class _Whole:
    """Mark of positional arguments that stay as they were typed, such as names of files that may hold commas."""


WHOLE = _Whole()
"""In `Annotated[tuple[str, ...], WHOLE, ...]`: texts that the command itself takes apart."""


class _Kind(Enum):
    FLAG = "takes no value"
    ONE = "takes one value"
    TEXT = "takes a text of items with commas"
    MANY = "takes several values"
    MANY_PATHS = "takes several paths"


MANY = (_Kind.MANY, _Kind.MANY_PATHS)


@dataclass(frozen=True, kw_only=True)
class _Parameters:
    """Parameters of a command: kinds of its options by name (`--batch-size`), and of its positionals in order."""

    options: dict[str, _Kind]
    positionals: list[_Kind]
    required_positionals: int

    def positional(self, number: int) -> _Kind | None:
        """Return the kind of a positional argument, counted from 0; the last kind takes all that follow."""
        return self.positionals[min(number, len(self.positionals) - 1)] if self.positionals else None


def with_lists_joined(arguments: Sequence[str], command: Callable[..., Any]) -> list[str]:
    """Rewrite lists to the form that the parser takes: `--datasets a b` to `--datasets a,b`, `4,40` to `4 40`.

    An option that takes a text of items takes all values that follow it, unless positional arguments that the command
    needs are still to come: then those behind its first item are left for them.

    Args:
        arguments: of the command, without its name.
        command: function with type hints that tyro makes a parser of.
    """
    parameters = _parameters_of(command)
    rewritten: list[str] = []
    remaining, positionals = list(arguments), 0
    while remaining:
        token = remaining.pop(0)
        name, equals, value = token.partition("=")
        kind = parameters.options.get(name.replace("_", "-"))
        if not _is_option(token):
            kind = parameters.positional(positionals)
            rewritten += _items([token], paths=kind is _Kind.MANY_PATHS) if kind in MANY else [token]
            positionals += 1
        elif kind is _Kind.TEXT or kind in MANY:
            values = [value] if equals else []
            needs_more = positionals < parameters.required_positionals
            while remaining and not _is_option(remaining[0]):
                if values and needs_more and not values[-1].endswith(","):
                    break
                values.append(remaining.pop(0))
            items = _items(values, paths=kind is _Kind.MANY_PATHS)
            rewritten += [name, ",".join(items)] if kind is _Kind.TEXT else [name, *items]
        else:
            takes_next = kind is _Kind.ONE and not equals and bool(remaining)
            rewritten += [token, remaining.pop(0)] if takes_next else [token]
    return rewritten


def names_of(text: str) -> list[str] | None:
    """Return the names in `a,b,c`; None, which stands for all, for the empty text."""
    return _items([text], paths=False) or None


def patch_of(text: str) -> tuple[int, int] | None:
    """Return (row, col) of `ROW,COL`; None for the empty text.

    Raises:
        errors.InvalidInput: not two numbers.
    """
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise errors.InvalidInput(f"--patch: expected ROW,COL such as 3,5, found '{text}'")
    return int(parts[0]), int(parts[1])


def rows_of(texts: Sequence[str], *, rows: int) -> list[int]:
    """Return the rows that numbers and ranges name, in the order given.

    Args:
        texts: numbers such as `17` and ranges such as `0:256`, without their end as in Python.
        rows: number of rows that exist; `:` alone names all of them.

    Raises:
        errors.InvalidInput: a text is neither a number nor a range; all such texts are listed.
    """
    chosen: list[int] = []
    wrong = []
    for text in texts:
        start, colon, stop = text.partition(":")
        if not colon and start.isdecimal():
            chosen.append(int(start))
        elif colon and (start or "0").isdecimal() and (stop or "0").isdecimal():
            chosen += range(int(start or 0), int(stop) if stop else rows)
        else:
            wrong.append(text)
    if wrong:
        raise errors.InvalidInput(f"rows: expected numbers or ranges such as 17 0:256, found {', '.join(wrong)}")
    return chosen


def _items(values: Sequence[str], *, paths: bool) -> list[str]:
    """Split values at commas and spaces around them; a path that exists stays whole, whatever is in its name."""
    items: list[str] = []
    for value in values:
        parts = [value] if paths and Path(value).exists() else value.split(",")
        items += [part.strip() for part in parts if part.strip()]
    return items


def _is_option(token: str) -> bool:
    return token.startswith("-") and not NUMBER.match(token)


def _parameters_of(command: Callable[..., Any]) -> _Parameters:
    options: dict[str, _Kind] = {}
    positionals: list[_Kind] = []
    required = 0
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        hint = hints.get(parameter.name, str)
        if parameter.kind is parameter.POSITIONAL_ONLY or tyro.conf.Positional in _marks(hint):
            positionals.append(_kind(hint))
            required += parameter.default is parameter.empty
        else:
            options.update(_options(parameter.name, hint, parameter.default))
    return _Parameters(options=options, positionals=positionals, required_positionals=required)


def _options(name: str, hint: Any, default: Any) -> Iterator[tuple[str, _Kind]]:
    """Yield (option, kind) of a parameter; of a dataclass those of its fields, such as `--optim.lr`."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        renamed = [mark.name for mark in _marks(hint) if getattr(mark, "name", None) is not None]
        prefix = renamed[0] if renamed else name
        fields = get_type_hints(type(default), include_extras=True)
        for field in dataclasses.fields(default):
            inner = f"{prefix}.{field.name}" if prefix else field.name
            yield from _options(inner, fields[field.name], getattr(default, field.name))
        return
    option = f"--{name.replace('_', '-')}"
    kind = _kind(hint)
    yield option, kind
    if kind is _Kind.FLAG:
        head, dot, last = name.rpartition(".")
        yield f"--{head}{dot}no-{last}".replace("_", "-"), kind


def _marks(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _kind(hint: Any) -> _Kind:
    marks = _marks(hint)
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    choices = [hint, *get_args(hint)]
    if any(isinstance(mark, _Separated) for mark in marks):
        return _Kind.TEXT
    if any(isinstance(mark, _Whole) for mark in marks):
        return _Kind.ONE
    if any(get_origin(choice) in (tuple, list) and ... in get_args(choice) for choice in choices):
        return _Kind.MANY_PATHS if any(Path in get_args(choice) for choice in choices) else _Kind.MANY
    return _Kind.FLAG if hint is bool else _Kind.ONE
