"""Parsing of configurations (catalogues, recipes, sweeps): all problems at once, with dotted paths and near misses."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from store.errors import InvalidConfig, MissingFile

MAX_DEPTH = 64
SHOWN_CHARACTERS = 120

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], data: Mapping[str, Any], *, subject: str) -> M:
    """Validate `data` as `model`.

    Args:
        model: a pydantic model with `extra="forbid"`.
        data: plain data, as from TOML or JSON.
        subject: name of the configuration for messages, for example `catalogue 'dune.toml'`.

    Raises:
        InvalidConfig: listing all problems, each with its dotted path and, for unknown keys, the nearest known one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidConfig(subject, problems(error, model)) from None


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each problem of `error`, which was raised while validating `model`."""
    return [_problem(dict(entry), model) for entry in error.errors(include_url=False)]


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean '...'?)` with the closest of `known`, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def read_toml(path: Path, *, subject: str) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        MissingFile: there is no such file.
        InvalidConfig: the file is not TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFile(f"{subject}: cannot read '{path}' ({error.strerror})") from None
    except ValueError as error:  # of an integer of thousands of digits, too
        raise InvalidConfig(subject, [f"not valid TOML: {error}"]) from None
    except RecursionError:
        raise InvalidConfig(subject, [f"nested deeper than {MAX_DEPTH} levels"]) from None
    if not _is_shallow(content, MAX_DEPTH):
        raise InvalidConfig(subject, [f"nested deeper than {MAX_DEPTH} levels"])
    return content


def _is_shallow(value: Any, levels: int) -> bool:
    """Tell whether tables and lists are nested at most `levels` deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def _problem(entry: dict[str, Any], model: type[BaseModel]) -> str:
    location = tuple(entry["loc"])
    where = _dotted(location)
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key{near_miss(str(location[-1]), _keys_at(model, location[:-1]))}"
    if entry["type"] == "missing":
        return f"{where}: missing"
    message = str(entry["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not where:
        return message
    if entry["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message}, found {_shown(entry['input'])}"


def _shown(value: Any) -> str:
    """Return a value in full if it is short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known at `location` inside `model`."""
    current: Any = model
    for part in location:
        if not isinstance(part, str):
            continue  # an index into a list: the model of its elements came with the list
        fields = _fields(current)
        field = next((field for name, field in fields.items() if part in (name, field.alias)), None)
        if field is None:
            return []
        current = _model_inside(field.annotation)
    return [field.alias or name for name, field in _fields(current).items()]


def _fields(model: Any) -> dict[str, Any]:
    return dict(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else {}


def _model_inside(annotation: Any) -> Any:
    """Return the model that an annotation such as `list[Entry]` or `Entry | None` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType) or get_args(annotation):
        for argument in get_args(annotation):
            inside = _model_inside(argument)
            if inside is not None:
                return inside
    return None
