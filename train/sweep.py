"""Ablations: a grid of runs from one TOML file, each resumable, and one table at the end. No run stops the others.

base = "demo"                       # a recipe's name or file
baseline = "tp"                     # the row that the others are compared with
seeds = [0, 1]
overrides = { "schedule.steps" = 400 }
[[row]]
name = "tp"
[[row]]
name = "sp"
set = { "projector.kind" = "sp" }
[grid]                              # instead of or besides rows: every combination is a row
"sharing.mode" = ["full", "none"]
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.common import atomic, strict_json
from store.common.config import near_miss, parse, read_toml
from store.errors import Damaged, InvalidConfig, InvalidInput
from train.recipe.config import Recipe, flattened, overridden
from train.recipe.named import find

FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
MAX_RUNS = 10_000
PROBLEM = "problem.txt"
SWEEP = "sweep.json"
NAMED = Path(__file__).with_name("sweeps")  # NAME.toml each

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._=,+-]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Strict):
    """One student of the comparison.

    Attributes:
        name: name of the row and of its directory.
        label: title in the table; the name if empty.
        set: recipe values, by dotted key or in nested tables.
    """

    name: Name
    label: str = ""
    set: dict[str, Any] = {}


class SweepFile(_Strict):
    """Content of a sweep file; the module's docstring has an example.

    Attributes:
        title: title of the comparison.
        base: name or file of the recipe that all rows start from.
        baseline: name of the row that the others are compared with; empty for none.
        seeds: seeds that every row is trained with.
        overrides: recipe values of all rows, by dotted key or in nested tables.
        row: rows given one by one.
        grid: dotted key -> values; every combination is one more row.
    """

    title: str = ""
    base: str
    baseline: str = ""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    overrides: dict[str, Any] = {}
    row: tuple[Row, ...] = ()
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _rows_make_sense(self) -> Self:
        of_grid = math.prod(map(len, self.grid.values())) if self.grid else 0
        runs = (len(self.row) + of_grid) * len(self.seeds)
        if runs > MAX_RUNS:
            raise ValueError(f"{runs:,} runs: expected at most {MAX_RUNS:,}")
        names = [row.name for row in self.rows]
        repeated = sorted(name for name, times in Counter(names).items() if times > 1)
        problems = [f"row '{name}' appears more than once" for name in repeated]
        if not names:
            problems.append("nothing to run: give [[row]] tables or a [grid]")
        elif self.baseline and self.baseline not in names:
            problems.append(f"baseline: no row '{self.baseline}'{near_miss(self.baseline, names)}")
        if problems:
            raise ValueError(". ".join(problems))
        return self

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows given one by one, then those of the grid."""
        if not self.grid:
            return self.row
        combinations = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return self.row + tuple(Row(name=_grid_name(values), set=values) for values in combinations)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a sweep."""

    row: Row
    seed: int
    recipe: Recipe
    directory: Path


@dataclass(frozen=True, kw_only=True)
class EndedRun:
    """A run of a sweep that has ended: `status` is FINISHED, FAILED or STOPPED, `problem` the reason of a failure."""

    run: PlannedRun
    status: str
    problem: str = ""


def names() -> list[str]:
    """Return the names of the sweeps that come with codistill."""
    return sorted(path.stem for path in NAMED.glob("*.toml"))


def find_file(sweep: str | Path) -> Path:
    """Return the file of a sweep, given by its name or as a file.

    Raises:
        InvalidInput: no sweep has this name; the nearest is suggested.
    """
    path = Path(sweep)
    if path.suffix == ".toml" or path.is_file():
        return path
    if str(sweep) not in names():
        raise InvalidInput(
            f"unknown sweep '{sweep}'{near_miss(str(sweep), names())}. Choose one of: {', '.join(names())}; "
            "or give a .toml file"
        )
    return NAMED / f"{sweep}.toml"


def plan(sweep_or_file: str | Path, out: Path) -> tuple[SweepFile, list[PlannedRun]]:
    """Read a sweep and resolve the recipe of every run.

    Args:
        sweep_or_file: name of a sweep, or TOML file.
        out: directory of the sweep; each run gets `ROW/seed-N` below it.

    Raises:
        InvalidInput: no sweep has this name.
        MissingFile: the file does not exist.
        InvalidConfig: every problem of the file and of all recipes.
    """
    file = find_file(sweep_or_file)
    subject = f"sweep '{file}'"
    sweep = parse(SweepFile, read_toml(file, subject=subject), subject=subject)
    base = find(str(file.parent / sweep.base) if (file.parent / sweep.base).is_file() else sweep.base)
    runs, problems = [], []
    for row, seed in itertools.product(sweep.rows, sweep.seeds):
        values = {"name": f"{base.name}/{row.name}", **dict(flattened(sweep.overrides)), **dict(flattened(row.set))}
        try:
            recipe = overridden(base, {**values, "seed": seed}, subject=f"row '{row.name}'")
        except InvalidConfig as error:
            problems += [f"row '{row.name}': {problem}" for problem in error.problems]
            continue
        runs.append(PlannedRun(row=row, seed=seed, recipe=recipe, directory=out / row.name / f"seed-{seed}"))
    if problems:
        raise InvalidConfig(subject, dict.fromkeys(problems))
    return sweep, runs


def store_sweep(sweep: SweepFile, out: Path) -> None:
    """Write the sweep into its directory, so that reports need the directory alone."""
    atomic.write_text(out / SWEEP, sweep.model_dump_json(indent=2) + "\n")


def stored_sweep(directory: Path) -> SweepFile | None:
    """Read the sweep that `store_sweep` wrote into a directory; None if there is none.

    Raises:
        InvalidConfig: the file is not a sweep's.
    """
    path = directory / SWEEP
    if not path.is_file():
        return None
    subject = f"sweep '{path}'"
    try:
        content = strict_json.parse_object(path.read_bytes(), where="it")
    except Damaged as error:
        raise InvalidConfig(subject, [str(error)]) from None
    return parse(SweepFile, content, subject=subject)


def problem_file(run: Path) -> Path:
    """Return the file that says why a run of a sweep failed."""
    return run.with_name(f"{run.name}.{PROBLEM}")


def _grid_name(values: Mapping[str, Any]) -> str:
    return ",".join(f"{key.split('.')[-1]}={_file_name_part(value)}" for key, value in values.items())


def _file_name_part(value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in text) or "none"
