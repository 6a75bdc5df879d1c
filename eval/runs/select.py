"""Select the runs to evaluate from the directories on the command line.

The directory of a sweep stands for its finished runs; its other runs are listed with the reason why they are absent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store.errors import InvalidInput, MissingFile
from train.run import checkpoints
from train.run.directory import is_finished, read_recipe
from train.run.output import CHECKPOINTS, RECIPE
from train.sweep import PROBLEM, problem_file, stored_sweep


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Selected runs, and what their sweeps say of them.

    Attributes:
        runs: run directories, in the order of the command line and of the sweeps' rows.
        labels: run -> label of its row in the table of its sweep.
        baselines: runs of the baseline rows of their sweeps.
        titles: titles of the sweeps that have one.
        absent: runs of sweeps that cannot be shown, and why, one sentence each.
    """

    runs: tuple[Path, ...]
    labels: Mapping[Path, str] = field(default_factory=dict)
    baselines: frozenset[Path] = frozenset()
    titles: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def select(paths: Sequence[Path]) -> Selected:
    """Select runs; a directory that is no run stands for the finished runs below it.

    Args:
        paths: run directories and directories of sweeps.

    Raises:
        InvalidInput: no path, a run given twice, or a directory without a finished run.
        MissingFile: no such directory.
    """
    if not paths:
        raise InvalidInput("no run given. Name at least one run directory: the --out of codistill train run")
    parts = [Selected(runs=(path,)) if (path / RECIPE).is_file() else _select_of_sweep(path) for path in paths]
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


def _select_of_sweep(path: Path) -> Selected:
    if not path.is_dir():
        raise MissingFile(f"'{path}' is not a run: no such directory. Give the --out of codistill train run or sweep")
    sweep = stored_sweep(path)
    expected = list(_run_directories(path)) if sweep is None else []
    rows: Mapping[str, str] = {}
    if sweep is not None:
        rows = {row.name: row.label or row.name for row in sweep.rows}
        expected = [path / name / f"seed-{seed}" for name in rows for seed in sweep.seeds]
    problems = {run: _unfinished(run) for run in expected}
    runs = tuple(run for run, problem in problems.items() if not problem)
    absent = _by_reason({str(run.relative_to(path)): problem for run, problem in problems.items() if problem})
    if not runs:
        reasons = f"; {'; '.join(absent)}" if absent else ""
        raise InvalidInput(f"'{path}' is not a run and holds no finished one{reasons}. Train first, or name a run")
    baseline = path / sweep.baseline if sweep and sweep.baseline else None
    return Selected(
        runs=runs,
        labels={run: rows[run.parent.name] for run in runs if rows},
        baselines=frozenset(run for run in runs if run.parent == baseline),
        titles=(sweep.title,) if sweep and sweep.title else (),
        absent=tuple(absent),
    )


def _by_reason(problems: Mapping[str, str]) -> list[str]:
    """Write one sentence for all runs with the same problem."""
    by_problem: dict[str, list[str]] = {}
    for name, problem in problems.items():
        by_problem.setdefault(problem, []).append(name)
    return [f"{', '.join(names)}: {problem}" for problem, names in by_problem.items()]


def _run_directories(path: Path) -> Iterator[Path]:
    """Yield the directories of begun and of failed runs below a directory, by path."""
    begun = {recipe.parent for recipe in path.rglob(RECIPE)}
    failed = {file.with_name(file.name.removesuffix(f".{PROBLEM}")) for file in path.rglob(f"*.{PROBLEM}")}
    yield from sorted(begun | failed)


def _unfinished(run: Path) -> str:
    """Say why a run of a sweep cannot be compared; empty if it is finished, whatever went wrong before or after."""
    if is_finished(run):
        return ""
    problem = problem_file(run)
    if problem.is_file():
        lines = problem.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else 'without a message'}"
    if not (run / RECIPE).is_file():
        return "not begun"
    steps, wanted = checkpoints.saved(run / CHECKPOINTS), read_recipe(run).steps
    return f"not finished: {steps[-1] if steps else 0:,} of {wanted:,} steps saved"
