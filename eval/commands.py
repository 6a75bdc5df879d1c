"""What the commands do; `__main__` only parses. Prints nothing itself: text goes to a rich console."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from eval.fidelity import Settings
from eval.report import build as report_page
from eval.report.extraction import bytes_table, read_summary, stages_table
from eval.report.fidelity import SCORE_TITLES, RunScores, terminal_table, verdict
from eval.report.render import write
from eval.report.tables import to_rich
from eval.runs import OpenRun, open_run
from eval.summary import summarise
from store.errors import InvalidInput


def report(
    runs: Sequence[Path],
    *,
    out: Path,
    extraction: Path | None,
    caches: Sequence[str],
    settings: Mapping[str, int],
    pictures: int,
    device: str,
) -> None:
    """Write the page and show the final tables."""
    summary = read_summary(extraction) if extraction else None
    opened = open_all(runs, caches=caches, device=device)
    made = report_page.build(
        opened, settings=Settings(**settings), summary=summary, picture_count=pictures, progress=True
    )
    path = write(made.page, out)
    console = Console()
    show_scores(console, made.scores)
    console.print("", to_rich(bytes_table(made.views[0]), title="Bytes of one row"), "")
    if summary is not None:
        console.print(to_rich(stages_table(summary), title="Extraction"), "")
    console.print(f"report: {path}")


def fidelity(
    runs: Sequence[Path],
    *,
    caches: Sequence[str],
    settings: Mapping[str, int],
    by: str,
    csv: Path | None,
    device: str,
) -> None:
    """Measure, show the tables, and write the scores as CSV if asked."""
    if by not in ("kind", "dataset"):
        raise InvalidInput(f"--by '{by}': expected kind or dataset")
    scores = []
    for name, opened in open_all(runs, caches=caches, device=device).items():
        table = report_page.measured_fidelity(opened, Settings(**settings), progress=True)
        scores.append(
            RunScores(name=name, by_kind=summarise(table, by="kind"), by_dataset=summarise(table, by="dataset"))
        )
    show_scores(Console(), scores, by_dataset=by == "dataset")
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        csv.write_text(scores_csv(scores, by=by), encoding="utf-8")


def pca(run: Path, *, out: Path, caches: Sequence[str], pictures: int, device: str) -> None:
    """Draw the figure."""
    from eval.analyses.pca import images_of
    from eval.figures import draw_pictures

    opened = open_run(run, caches=caches, device=device)
    facts, table = report_page.drawn_pictures(opened, count=pictures)
    images = images_of(table)
    draw_pictures({model: images[model] for model in facts["models"]}, facts["captions"], out=out)
    Console().print(f"figure: {out}")


def open_all(runs: Sequence[Path], *, caches: Sequence[str], device: str) -> dict[str, OpenRun]:
    """Open runs under names that tell them apart: the directory's name, or its whole path where two share one.

    Raises:
        InvalidInput: no run, or one given twice.
    """
    if not runs:
        raise InvalidInput("no run given. Name at least one run directory: the --out of codistill train run")
    resolved = [run.resolve() for run in runs]
    if len(set(resolved)) < len(resolved):
        raise InvalidInput(f"a run is given twice: {', '.join(map(str, runs))}")
    last = [path.name for path in resolved]
    names = [path.name if last.count(path.name) == 1 else str(run) for run, path in zip(runs, resolved, strict=True)]
    return {name: open_run(run, caches=caches, device=device) for name, run in zip(names, runs, strict=True)}


def show_scores(console: Console, scores: Sequence[RunScores], *, by_dataset: bool = False) -> None:
    """Cosine and smooth-L1 tables, and what they say."""
    for score in ("cosine", "smooth_l1"):
        table = terminal_table(scores, score, by_dataset=by_dataset)
        console.print(to_rich(table, title=SCORE_TITLES[score]), "")
    console.print(
        "before: the student before training. mean: the mean training token. linear: a linear map from the untrained "
        "student. 95 %: interval of the student, over images.",
        style="dim",
    )
    for run in scores:
        prefix = f"{run.name}: " if len(scores) > 1 else ""
        for sentence in verdict(run):
            console.print(prefix + sentence)


def scores_csv(scores: Sequence[RunScores], *, by: str) -> str:
    """All scores, one line for each run, predictor, group, teacher, token type and score."""
    lines = ["run,group,teacher,token_type,predictor,images,tokens,score,value,low,high"]
    for run in scores:
        for found in run.by_kind if by == "kind" else run.by_dataset:
            lead = (run.name, found.group, found.teacher, found.token_type, found.predictor, found.images, found.tokens)
            lines += [",".join(map(str, (*lead, score, *found.of(score)))) for score in SCORE_TITLES]
    return "\n".join(lines) + "\n"
