"""A folder of results that grows scene by scene, and goes on where it stopped.

settings.json        benchmark, model and options: a continuation must have the same
results/UNIT.json    {"inputs": digest of what the unit was computed on, "result": ...}, written whole when it is done
failures.json        {unit: reason} of the last run; these are tried again by the next
and what a benchmark makes of the results: scores.json, submission.zip ...
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from eval.runs.results import digest
from store.common import atomic, strict_json
from store.common.text import some
from store.errors import CodistillError, Conflict, Damaged, InvalidInput, MissingExtra, OutputExists
from store.format.schema import differences

SETTINGS, RESULTS, FAILURES, SCORES = "settings.json", "results", "failures.json", "scores.json"
LISTED_FAILURES = 5


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A scene, a sequence or a sample: the smallest part that is computed and kept.

    Attributes:
        name: its name, unlike all others.
        inputs: JSON of what it is computed on, such as names and sizes of files; found changed, it is refused.
        compute: computes its result, JSON; raises a `CodistillError` if it cannot.
    """

    name: str
    inputs: Any
    compute: Callable[[], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run over all units came to.

    Attributes:
        results: result of each unit that has one.
        failures: why the others have none.
        found: number of results that were there before.
    """

    results: dict[str, dict[str, Any]]
    failures: dict[str, str] = field(default_factory=dict)
    found: int = 0

    def report(self, out: Path, *, noun: str) -> list[str]:
        """Return lines that tell which units failed; none if all have a result."""
        if not self.failures:
            return []
        listed = [f"{name}: {reason}" for name, reason in list(self.failures.items())[:LISTED_FAILURES]]
        total = len(self.results) + len(self.failures)
        return [
            f"{len(self.failures)} of {total} {noun}s failed; run again to try them again. All reasons: "
            f"{out / FAILURES}",
            *listed,
        ]


class ResultFolder:
    """Results below a folder.

    Args:
        out: the folder; created if absent.
        settings: JSON of what all results depend on.

    Raises:
        OutputExists: it holds something else.
        Conflict: its results were made with other settings; each difference is named.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        asked: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        file = out / SETTINGS
        if file.is_file():
            problems = differences(strict_json.parse_object(file.read_bytes(), where=f"'{file}'"), asked)
            if problems:
                raise Conflict(
                    f"output '{out}' holds results of another model or other options. {'. '.join(problems)}. Give "
                    "those it was begun with, or choose another --out"
                )
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputExists(f"output '{out}' is not empty and holds no results. Choose another --out")
        else:
            atomic.write_text(file, json.dumps(asked, indent=1) + "\n")

    def path(self, name: str) -> Path:
        """Return the file of a unit's result; a name never leads out of the folder."""
        return self.out / RESULTS / f"{quote(name, safe='')}.json"

    def read(self, unit: Unit) -> dict[str, Any] | None:
        """Return the result of a unit; None if there is none, or a damaged one.

        Raises:
            Conflict: it was computed on other data.
        """
        path = self.path(unit.name)
        try:
            stored = strict_json.parse_object(path.read_bytes(), where=f"'{path}'")
        except (FileNotFoundError, Damaged):
            return None
        if stored.get("inputs") != digest(unit.inputs):
            raise Conflict(f"'{path}' was computed on other files of '{unit.name}'. Delete it, or choose another --out")
        result = stored.get("result")
        return result if isinstance(result, dict) else None

    def write(self, unit: Unit, result: Mapping[str, Any]) -> None:
        """Store the result of a unit, whole or not at all; NaN becomes null."""
        content = json.dumps({"inputs": digest(unit.inputs), "result": _plain(result)}, allow_nan=False)
        atomic.write_text(self.path(unit.name), content + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """Write OUT/NAME; NaN becomes null."""
        atomic.write_text(self.out / name, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def run_units(units: Sequence[Unit], folder: ResultFolder, *, noun: str, progress: bool = False) -> Outcome:
    """Compute the units that have no result yet, one after the other.

    A unit that fails is recorded, and the others go on.

    Args:
        units: all units.
        folder: where results are kept.
        noun: what a unit is, for messages, for example `scene`.
        progress: show a bar.

    Raises:
        Conflict: a stored result was computed on other data.
        InvalidInput: no units, two of one name, or not a single result.
        MissingExtra: a library is not installed.
    """
    _check_names(units, noun)
    stored = {unit.name: result for unit in units if (result := folder.read(unit)) is not None}
    results, failures = dict(stored), {}
    todo = [unit for unit in units if unit.name not in stored]
    for unit in tqdm(todo, desc=f"{noun}s", initial=len(stored), total=len(units), disable=None if progress else True):
        try:
            results[unit.name] = unit.compute()
            folder.write(unit, results[unit.name])
        except MissingExtra:
            raise
        except CodistillError as error:
            failures[unit.name] = str(error)
            folder.write_json(FAILURES, failures)
    folder.write_json(FAILURES, failures)
    if not results:
        name, reason = next(iter(failures.items()))
        raise InvalidInput(f"all {len(units)} {noun}s failed, the first for this reason: {name}: {reason}")
    ordered = {unit.name: results[unit.name] for unit in units if unit.name in results}
    return Outcome(results=ordered, failures=failures, found=len(stored))


def _check_names(units: Sequence[Unit], noun: str) -> None:
    names = [unit.name for unit in units]
    if not names:
        raise InvalidInput(f"no {noun}s to score")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InvalidInput(f"more than one {noun} of the name {some(twice)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value != value else value
