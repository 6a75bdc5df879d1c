"""Constraints of command-line arguments, checked before a command runs: numbers, devices, and what must exist.

A constraint stands in the annotation of a parameter, or of a field of a dataclass that is one: `Annotated[int,
AtLeast(1)]`. All problems of a command line are told at once, before the command imports anything.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import tyro

from store import errors
from store.common.config import near_miss

DEVICE_TYPES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")
NUMBERED_DEVICE = re.compile(r"([a-z]+):\d+")
UNNUMBERED = ("auto", "cpu")


@runtime_checkable
class Constraint(Protocol):
    """Condition that the value of an argument must fulfil."""

    def check(self, subject: str, value: Any) -> None:
        """Refuse a value.

        Args:
            subject: option or placeholder that the value was given for, such as `--rows`.
            value: value of the argument, or one of several; never None.

        Raises:
            errors.CodistillError: the message says what is wrong and what to give instead.
        """
        ...


@dataclass(frozen=True)
class AtLeast:
    """A number that is not below `least`."""

    least: float

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        if not value >= self.least:  # neither is NaN
            raise errors.InvalidInput(f"{subject}: expected a number from {self.least} on, found {value}")


def device_name(name: str) -> str:
    """Return the name of a device if torch may know one of that name; whether it is here is found out when it is used.

    Raises:
        errors.InvalidInput: there is no such device.
    """
    numbered = NUMBERED_DEVICE.fullmatch(name)
    kind = numbered.group(1) if numbered else name
    if kind not in DEVICE_TYPES or (numbered is not None and kind in UNNUMBERED):
        near = "" if kind in DEVICE_TYPES else near_miss(kind, DEVICE_TYPES)
        raise errors.InvalidInput(f"'{name}' is no device{near}. Choose auto, cpu, cuda or cuda:N")
    return name


class DeviceName:
    """A name that `device_name` accepts."""

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        try:
            device_name(value)
        except errors.InvalidInput as error:
            raise errors.InvalidInput(f"{subject}: {error}") from None


class ExistingFile:
    """A file to read."""

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        path = Path(value).expanduser()
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "no such file"
            raise errors.MissingFile(f"{subject} '{value}': {reason}. Check the path")


@dataclass(frozen=True)
class ExistingFolder:
    """A folder to read.

    Attributes:
        kind: what the folder should be, such as `run`.
        holds: file that makes it one; None if any folder will do.
        advice: what to give instead.
    """

    kind: str = "folder"
    holds: str | None = None
    advice: str = "Check the path"

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        path = Path(value)
        if not path.is_dir():
            reason = "not a directory" if path.exists() else "no such directory"
        elif self.holds is not None and not (path / self.holds).is_file():
            reason = f"no {self.holds} in it"
        else:
            return
        raise errors.MissingFile(f"{subject} '{value}' is not a {self.kind}: {reason}. {self.advice}")


class OutputFile:
    """A file to write, in folders that exist or can be created."""

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        path = Path(value)
        if path.is_dir():
            raise errors.InvalidInput(f"{subject} '{value}': is a folder. Name a file in it")
        blocking = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
        if blocking is not None:
            raise errors.InvalidInput(f"{subject} '{value}': '{blocking}' is not a folder. Choose another path")


Positive = Annotated[int, AtLeast(1)]
NotNegative = Annotated[int, AtLeast(0)]
Device = Annotated[str, DeviceName()]


def check_arguments(command: Callable[..., Any], values: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Check the arguments of a call of `command` against the constraints in its annotations.

    Raises:
        errors.CodistillError: all problems; of a single one the error itself.
    """
    bound = inspect.signature(command).bind(*values, **named)
    hints = get_type_hints(command, include_extras=True)
    problems: list[errors.CodistillError] = []
    for name, value in bound.arguments.items():
        positional = inspect.signature(command).parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY
        for subject, constraint, item in _constrained(name, hints.get(name, Any), value, positional=positional):
            try:
                constraint.check(subject, item)
            except errors.CodistillError as error:
                problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise errors.InvalidConfig("arguments", map(str, problems))


def _constrained(
    name: str, hint: Any, value: Any, *, positional: bool = False
) -> Iterator[tuple[str, Constraint, Any]]:
    """Yield (option or placeholder, constraint, value) for a parameter, or for the fields of a dataclass."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    positional = positional or tyro.conf.Positional in marks
    placeholder = next((str(mark.metavar) for mark in marks if getattr(mark, "metavar", None)), name.upper())
    subject = placeholder if positional else f"--{name.replace('_', '-')}"
    for item in value if isinstance(value, tuple) else () if value is None else (value,):
        yield from ((subject, mark, item) for mark in marks if isinstance(mark, Constraint))
    if is_dataclass(value) and not isinstance(value, type):
        renamed = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        prefix = renamed[0] if renamed else name
        inner = get_type_hints(type(value), include_extras=True)
        for field in fields(value):
            full_name = f"{prefix}.{field.name}" if prefix else field.name
            yield from _constrained(full_name, inner[field.name], getattr(value, field.name))
