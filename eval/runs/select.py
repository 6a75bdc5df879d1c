"""From what the command line names, runs and directories of sweeps, to the runs that can be evaluated.

A sweep's directory stands for its finished runs. What else it should hold is not lost: it is said, with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store.errors import InvalidInput, MissingFile
from train.run import checkpoints
from train.run.directory import CHECKPOINTS, RECIPE, read_recipe
from train.sweep import PROBLEM, kept, problem_file


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The runs that were named, and what the sweeps among them say.

    Attributes:
        runs: directories, in the order of the command line and of the sweeps' rows.
        labels: run -> what its sweep's table calls its row.
        baselines: runs of the rows that their sweep compares the others with.
        titles: of the sweeps that have one.
        absent: runs of sweeps that cannot be shown, and why, one sentence each.
    """

    runs: tuple[Path, ...]
    labels: Mapping[Path, str] = field(default_factory=dict)
    baselines: frozenset[Path] = frozenset()
    titles: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def select(paths: Sequence[Path]) -> Selected:
    """Find the runs that were named.

    A directory that is no run stands for the finished runs below it.

    Raises:
        InvalidInput: nothing named, a run named twice, or a directory without a finished run.
        MissingFile: neither a run nor a directory.
    """
    if not paths:
        raise InvalidInput("no run given. Name at least one run directory: the --out of codistill train run")
    parts = [_run(path) if (path / RECIPE).is_file() else _sweep(path) for path in paths]
    runs = [run for part in parts for run in part.runs]
    if len({run.resolve() for run in runs}) < len(runs):
        raise InvalidInput(f"a run is given twice: {', '.join(map(str, paths))}")
    return Selected(
        runs=tuple(runs),
        labels={run: label for part in parts for run, label in part.labels.items()},
        baselines=frozenset(run for part in parts for run in part.baselines),
        titles=tuple(title for part in parts for title in part.titles),
        absent=tuple(sentence for part in parts for sentence in part.absent),
    )


def _run(path: Path) -> Selected:
    return Selected(runs=(path,))


def _sweep(path: Path) -> Selected:
    if not path.is_dir():
        raise MissingFile(f"'{path}' is not a run: no such directory. Give the --out of codistill train run or sweep")
    sweep = kept(path)
    places = list(_places(path)) if sweep is None else []
    rows: Mapping[str, str] = {}
    if sweep is not None:
        rows = {row.name: row.label or row.name for row in sweep.rows}
        places = [path / name / f"seed-{seed}" for name in rows for seed in sweep.seeds]
    problems = {place: _unfinished(place) for place in places}
    runs = tuple(place for place, problem in problems.items() if not problem)
    absent = _by_reason({str(place.relative_to(path)): problem for place, problem in problems.items() if problem})
    if not runs:
        found = f"; {'; '.join(absent)}" if absent else ""
        raise InvalidInput(f"'{path}' is not a run and holds no finished one{found}. Train first, or name a run")
    baseline = path / sweep.baseline if sweep and sweep.baseline else None
    return Selected(
        runs=runs,
        labels={run: rows[run.parent.name] for run in runs if rows},
        baselines=frozenset(run for run in runs if run.parent == baseline),
        titles=(sweep.title,) if sweep and sweep.title else (),
        absent=tuple(absent),
    )


def _by_reason(problems: Mapping[str, str]) -> list[str]:
    """One sentence for all runs with the same problem."""
    together: dict[str, list[str]] = {}
    for name, problem in problems.items():
        together.setdefault(problem, []).append(name)
    return [f"{', '.join(names)}: {problem}" for problem, names in together.items()]


def _places(path: Path) -> Iterator[Path]:
    """Directories of runs below a directory, and those that a run should have been in, by path."""
    begun = {recipe.parent for recipe in path.rglob(RECIPE)}
    failed = {file.with_name(file.name.removesuffix(f".{PROBLEM}")) for file in path.rglob(f"*.{PROBLEM}")}
    yield from sorted(begun | failed)


def _unfinished(run: Path) -> str:
    """Why a run of a sweep cannot be compared; empty if it is finished."""
    problem = problem_file(run)
    if problem.is_file():
        lines = problem.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else 'without a message'}"
    if not (run / RECIPE).is_file():
        return "not begun"
    steps, wanted = checkpoints.saved(run / CHECKPOINTS), read_recipe(run).steps
    if not steps or steps[-1] < wanted:
        return f"not finished: {steps[-1] if steps else 0:,} of {wanted:,} steps saved"
    return ""
