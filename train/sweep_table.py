"""Comparison of a sweep's runs as Markdown, CSV and PNG: differences to a baseline, spread over seeds."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from store.common import atomic
from train.run import log
from train.sweep import FINISHED, EndedRun, Row

HOW_TO_READ = (
    "Cosine similarity of the projected student to the standardised teacher tokens, higher is better: mean over "
    "held-out rows, and over seeds as mean ± standard deviation. In brackets the difference to the baseline."
)
Key = tuple[str, str, str]  # row, held-out dataset, teacher


@dataclass(frozen=True, kw_only=True)
class Result:
    """Last held-out measurement of one run for one dataset and teacher."""

    row: str
    seed: int
    step: int
    dataset: str
    teacher: str
    cosine: float
    smooth_l1: float
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
                    cosine=values["cosine"],
                    smooth_l1=values["smooth_l1"],
                    loss=values["loss"],
                )
                for teacher, values in teachers.items()
            ]
    return results


def write(out: Path, *, title: str, rows: Sequence[Row], baseline: str, ended: Sequence[EndedRun]) -> list[Path]:
    """Write `comparison.md`, `.csv` and, if there is a result, `.png` into `out`.

    Args:
        out: directory of the sweep.
        title: heading.
        rows: rows of the sweep, in the order of the table.
        baseline: name of the row that the others are compared with; empty for none.
        ended: runs of the sweep.

    Returns:
        Paths of the files.
    """
    results = collect(ended)
    files = [out / "comparison.md", out / "comparison.csv"]
    atomic.write_text(files[0], markdown(title, rows=rows, baseline=baseline, results=results, ended=ended))
    with atomic.replacing(files[1]) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Result.__dataclass_fields__)
        writer.writerows([vars(result).values() for result in results])
    if results:
        files.append(_plot(out / "comparison.png", title=title, rows=rows, results=results))
    return files


def markdown(
    title: str, *, rows: Sequence[Row], baseline: str, results: Sequence[Result], ended: Sequence[EndedRun]
) -> str:
    """Return the comparison as Markdown: a table for each held-out dataset, then the runs without a result."""
    values = _by_key(results)
    text = [f"# {title or 'Comparison'}", "", HOW_TO_READ + (f" Baseline: {baseline}." if baseline else ""), ""]
    for dataset in _ordered(result.dataset for result in results):
        teachers = _ordered(result.teacher for result in results if result.dataset == dataset)
        text += [f"## {dataset}", "", f"| | {' | '.join(teachers)} | mean |", f"|---{'|---:' * (len(teachers) + 1)}|"]
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
        by_key.setdefault((result.row, result.dataset, result.teacher), {})[result.seed] = result.cosine
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
    text = f"{mean(cosines):.4f}" + (f" ± {stdev(cosines):.4f}" if len(cosines) > 1 else "")
    return text + (f" ({mean(cosines) - mean(reference):+.4f})" if reference else "")


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
            cosines = [list(values.get((row.name, dataset, teacher), {}).values()) for row in rows]
            axes.bar(
                [number + (position - (len(teachers) - 1) / 2) * 0.8 / len(teachers) for number in range(len(rows))],
                [mean(of_seeds) if of_seeds else 0.0 for of_seeds in cosines],
                width=0.8 / len(teachers),
                yerr=[stdev(of_seeds) if len(of_seeds) > 1 else 0.0 for of_seeds in cosines],
                label=teacher,
            )
        axes.set_title(f"held-out '{dataset}'", fontsize="medium")
        axes.set_ylabel("cosine similarity")
        axes.set_xticks(range(len(rows)), [row.label or row.name for row in rows])
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(teachers))
    figure.suptitle(title)
    with atomic.replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    return path
