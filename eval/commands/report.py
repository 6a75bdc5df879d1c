"""`codistill eval report` and `fidelity`: scores of students against their teachers, on a page and on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.commands.options import Baseline, Caches, Folder, InputFileOrNone, OutputFileOrNone, Runs
from eval.commands.output import write_csv
from store.common.arguments import names_of
from store.common.config import near_miss
from store.common.constraints import Device, NotNegative, Positive
from store.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from eval.comparison.ranking import Comparison
    from eval.encoders.open_encoder import OpenEncoder
    from eval.report.build import SweepInfo
    from eval.report.sections.score_targets import RunScores
    from eval.runs.open_run import OpenRun
    from eval.runs.select import Selected

SCORE_COLUMNS = (
    "run",
    "group",
    "teacher",
    "token_type",
    "predictor",
    "images",
    "tokens",
    "score",
    "value",
    "low",
    "high",
)
TERMINAL_LEGEND = (
    "n: photographs. before: the student before training. mean: the mean training token. linear: a linear map from "
    "the untrained student. 95 %: confidence interval of the student, by resampling photographs. Bold: best. "
    "Triangle: no better than a baseline."
)


def report(
    runs: Runs,
    /,
    *,
    out: Folder,
    extraction: InputFileOrNone = None,
    cache: Caches = "",
    encoders: InputFileOrNone = None,
    rows: Positive = 1000,
    fit_rows: Positive = 4096,
    pictures: NotNegative = 6,
    baseline: Baseline = "",
    device: Device = "auto",
) -> None:
    """Write one self-contained HTML page about one run, several runs, or a sweep.

    example: codistill eval report demo/run --out demo/report --extraction demo/extraction.json

    Args:
        runs: run directories; the directory of a sweep stands for its finished runs.
        out: folder in which index.html is written.
        extraction: JSON file of `codistill extract run --summary`, whose rates the page then shows.
        cache: locations of the caches, if they have moved since the training.
        encoders: TOML file of other encoders to compare with, each read through a fitted linear map.
        rows: held-out rows to measure of each dataset, at most.
        fit_rows: training rows to fit the baselines on, at most.
        pictures: held-out views to show as pictures, at most.
        baseline: run, or row of a sweep, that the others are compared with.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from rich.console import Console

    from eval.fidelity.measure import Settings
    from eval.report import build
    from eval.report.page import write
    from eval.report.sections.extraction import bytes_table, bytes_title, read_summary, stages_table
    from eval.report.tables import to_rich
    from eval.runs.select import select

    summary = read_summary(extraction) if extraction else None
    selected = select(runs)
    names = distinct_names(selected.runs)
    sweeps = _sweep_info(selected, names, baseline=baseline)
    opened = _open_all(names, cache=cache, device=device)
    built = build.build(
        opened,
        settings=Settings(rows_per_dataset=rows, fit_rows=fit_rows),
        summary=summary,
        picture_count=pictures,
        sweeps=sweeps,
        peers=_open_peers(encoders, opened),
        progress=True,
    )
    path = write(built.page, out)
    console = Console()
    if len(opened) == 1:
        _show_scores(console, built.scores)
        console.print("", to_rich(bytes_table(built.views[0], summary), title=bytes_title(summary)), "")
    else:
        _show_comparison(console, built.compared, absent=sweeps.absent)
    if summary is not None:
        console.print(to_rich(stages_table(summary), title="Extraction"), "")
    console.print(f"report: {path}")


def fidelity(
    runs: Runs,
    /,
    *,
    cache: Caches = "",
    encoders: InputFileOrNone = None,
    rows: Positive = 1000,
    fit_rows: Positive = 4096,
    by: str = "kind",
    csv: OutputFileOrNone = None,
    device: Device = "auto",
) -> None:
    """Measure how well students predict their teachers' tokens on held-out rows, and compare with baselines.

    example: codistill eval fidelity demo/run

    Args:
        runs: run directories; the directory of a sweep stands for its finished runs.
        cache: locations of the caches, if they have moved since the training.
        encoders: TOML file of other encoders to compare with, each read through a fitted linear map.
        rows: held-out rows to measure of each dataset, at most.
        fit_rows: training rows to fit the baselines on, at most.
        by: `kind` pools held-out views and held-out photographs over datasets; `dataset` shows each dataset.
        csv: CSV file for all scores with their intervals.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """
    from rich.console import Console

    from eval.comparison.paired import in_common
    from eval.fidelity.held_out import refuse_without_rows
    from eval.fidelity.measure import Settings
    from eval.report.build import scores_of
    from eval.runs import cached
    from eval.runs.select import select
    from train.data.mixture import Mixture

    if by not in ("kind", "dataset"):
        raise InvalidInput(f"--by '{by}': expected kind or dataset")
    opened = _open_all(distinct_names(select(runs).runs), cache=cache, device=device)
    peers = _open_peers(encoders, opened)
    settings = Settings(rows_per_dataset=rows, fit_rows=fit_rows)
    for name, run in opened.items():
        cached.require_fidelity(run, settings, peers=peers.get(name))
        if isinstance(run.data, Mixture):
            refuse_without_rows(name, run.data)
    tables = {
        name: cached.fidelity(run, settings, peers=peers.get(name), progress=True) for name, run in opened.items()
    }
    scores = [scores_of(name, table) for name, table in in_common(tables).items()]
    _show_scores(Console(), scores, by_dataset=by == "dataset")
    if csv is not None:
        write_csv(csv, SCORE_COLUMNS, _score_rows(scores, by=by))


def distinct_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Name runs by as many of the last parts of their paths as it takes to tell them apart."""
    resolved = [run.resolve() for run in runs]
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return {"/".join(path.parts[-depth:]): run for path, run in zip(resolved, runs, strict=True)}


def _open_all(runs: Mapping[str, Path], *, cache: str, device: str) -> "dict[str, OpenRun]":
    from eval.runs.open_run import open_run

    return {name: open_run(run, caches=names_of(cache) or (), device=device) for name, run in runs.items()}


def _open_peers(file: Path | None, opened: "Mapping[str, OpenRun]") -> "dict[str, dict[str, OpenEncoder]]":
    """Open the encoders of a file for every run, on the patch grid of that run."""
    if file is None:
        return {}
    from eval.encoders.load import open_peers

    return {
        name: open_peers(file, cell_px=run.run.distiller.cell_px, device=run.device) for name, run in opened.items()
    }


def _sweep_info(selected: "Selected", runs: Mapping[str, Path], *, baseline: str) -> "SweepInfo":
    """Collect labels, baselines and titles from sweeps, by the names of the runs on the page.

    Args:
        selected: the runs and their sweeps.
        runs: name -> run directory.
        baseline: label or directory of a row, or name of a run; empty: the baseline of the sweep.

    Raises:
        InvalidInput: no such baseline.
    """
    from eval.report.build import SweepInfo

    labels = {name: selected.labels[run] for name, run in runs.items() if run in selected.labels}
    baselines = {name for name, run in runs.items() if run in selected.baselines}
    if baseline:
        known = {name: {name, run.resolve().parent.name, labels.get(name, name)} for name, run in runs.items()}
        baselines = {name for name, words in known.items() if baseline in words}
        if not baselines:
            near = near_miss(baseline, {word for words in known.values() for word in words})
            raise InvalidInput(f"--baseline '{baseline}': no run or row of that name{near}; runs: {', '.join(runs)}")
    return SweepInfo(labels=labels, baselines=frozenset(baselines), titles=selected.titles, absent=selected.absent)


def _show_scores(console: "Console", scores: "Sequence[RunScores]", *, by_dataset: bool = False) -> None:
    """Print tables of cosine and smooth-L1, and the verdict in words."""
    from eval.report.sections.score_targets import by_targets, decoded_notes
    from eval.report.sections.scores import SCORE_TITLES, terminal_table, verdict
    from eval.report.tables import to_rich

    for targets, part in by_targets(scores):
        for score in ("cosine", "smooth_l1"):
            table = terminal_table(part, score, by_dataset=by_dataset)
            console.print(to_rich(table, title=SCORE_TITLES[score] + (f", {targets}" if targets else "")), "")
    console.print(TERMINAL_LEGEND, style="dim")
    for note in decoded_notes(scores):
        console.print(note)
    for run in scores:
        prefix = f"{run.name}: " if len(scores) > 1 else ""
        for sentence in verdict(run):
            console.print(prefix + sentence)


def _show_comparison(console: "Console", compared: "Comparison", *, absent: Sequence[str]) -> None:
    """Print which recipe won, as a table and in words, and which runs of sweeps are missing."""
    from eval.report.sections.comparison import sentences
    from eval.report.sections.comparison_tables import recipes_brief
    from eval.report.tables import to_rich
    from train.run.headline import PATCH_COSINE

    table = recipes_brief(compared.deciding, compared.reference)
    title = f"{PATCH_COSINE.capitalize()} on {compared.deciding.aligned.kind}, mean over teachers"
    console.print(to_rich(table, title=title))
    legend = (
        f"difference: to '{compared.reference.label}', on the same photographs. Triangle: no better than a baseline."
    )
    console.print(legend, "", style="dim")
    for sentence in (*sentences(compared), *(f"Not here: {reason}" for reason in absent)):
        console.print(sentence)


def _score_rows(scores: "Sequence[RunScores]", *, by: str) -> list[tuple[Any, ...]]:
    """List one row for each run, predictor, group, teacher, token type and score."""
    from eval.fidelity.metrics import SCORES

    return [
        (run.name, s.group, s.teacher, s.token_type, s.predictor, s.images, s.tokens, score, *s.of(score))
        for run in scores
        for s in (run.by_kind if by == "kind" else run.by_dataset)
        for score in SCORES
    ]
