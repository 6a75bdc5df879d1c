"""Comparison of a sweep's runs as Markdown, CSV and PNG: differences to a baseline, spread over seeds."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from store.common import atomic
from store.common.text import some
from train.run import headline, log
from train.sweep import FINISHED, EndedRun, Row

HOW_TO_READ = (
    f"{headline.DEFINITION} Mean over held-out rows, and over seeds as mean ± standard deviation. In brackets the "
    "difference to the baseline. Whether a student is better than an untrained one or than a linear map is not in "
    "these tables: `codistill eval report` shows it."
)
MEAN = "mean over teachers"
NOT_A_NUMBER = "not a number"
Key = tuple[str, str, str]  # row, held-out dataset, teacher


@dataclass(frozen=True, kw_only=True)
class Result:
    """Last held-out measurement of one run for one dataset and teacher."""

    row: str
    seed: int
    step: int
    dataset: str
    teacher: str
    patch_cosine: float
    patch_smooth_l1: float
    loss: float


def collect(ended: Sequence[EndedRun]) -> list[Result]:
    """Read the last measurement of every finished run."""
    results = []
    for item in ended:
        records = log.read(item.run.directory, log.FIDELITY)
        if item.status != FINISHED or not records:
            continue
        for dataset, teachers in records[-1]["datasets"].items():
            results += [
                Result(
                    row=item.run.row.name,
                    seed=item.run.seed,
                    step=records[-1]["step"],
                    dataset=dataset,
                    teacher=teacher,
                    patch_cosine=headline.patch_cosine(values),
                    patch_smooth_l1=headline.patch_smooth_l1(values),
                    loss=values["loss"],
                )
                for teacher, values in teachers.items()
            ]
    return results


def write(out: Path, *, title: str, rows: Sequence[Row], baseline: str, ended: Sequence[EndedRun]) -> str:
    """Write `comparison.md`, `.csv` and, if there is a result, `.png` into `out`.

    Files that are right already stay untouched, and a comparison never loses a result: if `out` has one of a run of
    this sweep that has none now, all files stay as they are.

    Args:
        out: directory of the sweep.
        title: heading.
        rows: rows of the sweep, in the order of the table.
        baseline: name of the row that the others are compared with; empty for none.
        ended: runs of the sweep.

    Returns:
        A sentence that names the files.
    """
    results = collect(ended)
    text, table, plot = out / "comparison.md", out / "comparison.csv", out / "comparison.png"
    lost = sorted(_compared_before(table) & {_name(item) for item in ended} - {(r.row, r.seed) for r in results})
    if lost:
        names = some(f"{row}, seed {seed}" for row, seed in lost)
        return (
            f"'{text}' stays as it was: it has results of runs that have none now ({names}). Train them, or delete it"
        )
    changed = _write_if_other(text, markdown(title, rows=rows, baseline=baseline, results=results, ended=ended))
    changed |= _write_if_other(table, _csv(results))
    if results and (changed or not plot.exists()):
        _plot(plot, title=title, rows=rows, results=results)
    return f"comparison: {', '.join(str(path) for path in (text, table, *([plot] if results else [])))}"


def _name(item: EndedRun) -> tuple[str, int]:
    return item.run.row.name, item.run.seed


def _compared_before(table: Path) -> set[tuple[str, int]]:
    """Return row and seed of the runs in a written comparison; a file that cannot be read has none."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {(line["row"], int(line["seed"])) for line in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return set()


def _csv(results: Sequence[Result]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Result.__dataclass_fields__)
    writer.writerows([vars(result).values() for result in results])
    return text.getvalue()


def _write_if_other(path: Path, text: str) -> bool:
    """Write a file unless it has this text already; tell whether it was written."""
    content = text.encode("utf-8")
    if path.is_file() and path.read_bytes() == content:
        return False
    with atomic.replacing(path) as partial:
        partial.write_bytes(content)
    return True


def markdown(
    title: str, *, rows: Sequence[Row], baseline: str, results: Sequence[Result], ended: Sequence[EndedRun]
) -> str:
    """Return the comparison as Markdown: a table for each held-out dataset, then the runs without a result."""
    values = _by_key(results)
    text = [f"# {title or 'Comparison'}", "", HOW_TO_READ + (f" Baseline: {baseline}." if baseline else ""), ""]
    for dataset in _ordered(result.dataset for result in results):
        teachers = _ordered(result.teacher for result in results if result.dataset == dataset)
        text += [f"## {dataset}", "", f"| | {' | '.join(teachers)} | {MEAN} |", f"|---{'|---:' * (len(teachers) + 1)}|"]
        for row in rows:
            cells = [_cell(values, (row.name, dataset, teacher), baseline) for teacher in teachers]
            cells.append(_mean_cell(values, row.name, dataset, teachers, baseline))
            text.append(f"| {row.label or row.name} | {' | '.join(cells)} |")
        text.append("")
    steps, seeds = {result.step for result in results}, {result.seed for result in results}
    if results:
        text += [f"Steps: {', '.join(map(str, sorted(steps)))}. Seeds: {', '.join(map(str, sorted(seeds)))}.", ""]
    if len(seeds) == 1:
        text += ["One seed: differences smaller than the spread of seeds, which is not known here, mean nothing.", ""]
    absent = [
        f"- {item.run.row.name}, seed {item.run.seed}: {item.status}. {item.problem}".rstrip()
        for item in ended
        if item.status != FINISHED
    ]
    if absent:
        text += ["## Not finished", "", *absent, ""]
    return "\n".join(text)


def _by_key(results: Sequence[Result]) -> dict[Key, dict[int, float]]:
    """Return the cosines by seed of every row, dataset and teacher."""
    by_key: dict[Key, dict[int, float]] = {}
    for result in results:
        by_key.setdefault((result.row, result.dataset, result.teacher), {})[result.seed] = result.patch_cosine
    return by_key


def _cell(values: Mapping[Key, Mapping[int, float]], key: Key, baseline: str) -> str:
    cosines = list(values.get(key, {}).values())
    reference = list(values.get((baseline, *key[1:]), {}).values())
    return _cell_text(cosines, reference if key[0] != baseline else [])


def _mean_cell(
    values: Mapping[Key, Mapping[int, float]], row: str, dataset: str, teachers: Sequence[str], baseline: str
) -> str:
    """Return the mean over teachers, of each seed that has them all."""

    def means(name: str) -> list[float]:
        by_teacher = [values.get((name, dataset, teacher), {}) for teacher in teachers]
        seeds = set(by_teacher[0]).intersection(*by_teacher[1:])
        return [mean(cosines[seed] for cosines in by_teacher) for seed in sorted(seeds)]

    return _cell_text(means(row), means(baseline) if row != baseline else [])


def _cell_text(cosines: Sequence[float], reference: Sequence[float]) -> str:
    if not cosines:
        return "-"
    if not _all_finite(cosines):
        return NOT_A_NUMBER
    text = f"{mean(cosines):.4f}" + (f" ± {stdev(cosines):.4f}" if len(cosines) > 1 else "")
    return text + (f" ({mean(cosines) - mean(reference):+.4f})" if _all_finite(reference) else "")


def _all_finite(cosines: Iterable[float]) -> list[float]:
    """Return the values of the seeds, none if one of them is not a number: there is no bar then."""
    listed = list(cosines)
    return listed if all(map(math.isfinite, listed)) else []


def _ordered(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _plot(path: Path, *, title: str, rows: Sequence[Row], results: Sequence[Result]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = _by_key(results)
    datasets = _ordered([result.dataset for result in results])
    teachers = _ordered([result.teacher for result in results])
    columns = 1 if len(datasets) < 3 else 2
    lines = -(-len(datasets) // columns)
    width = 1.5 + 0.35 * len(rows) * len(teachers)
    figure = Figure(figsize=(columns * width, 0.6 + 2.4 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for spare in panels[len(datasets) :]:
        spare.remove()
    for axes, dataset in zip(panels[: len(datasets)], datasets, strict=True):
        for position, teacher in enumerate(teachers):
            cosines = [_all_finite(values.get((row.name, dataset, teacher), {}).values()) for row in rows]
            axes.bar(
                [number + (position - (len(teachers) - 1) / 2) * 0.8 / len(teachers) for number in range(len(rows))],
                [mean(of_seeds) if of_seeds else math.nan for of_seeds in cosines],
                width=0.8 / len(teachers),
                yerr=[stdev(of_seeds) if len(of_seeds) > 1 else 0.0 for of_seeds in cosines],
                label=teacher,
            )
        axes.set_title(f"held-out '{dataset}'", fontsize="medium")
        axes.set_ylabel(headline.PATCH_COSINE)
        axes.set_xticks(range(len(rows)), [row.label or row.name for row in rows])
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(teachers))
    figure.suptitle(title)
    with atomic.replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    return path
