"""What the commands do; `__main__` only parses. Text goes to a rich console."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.analyses.correlation import Probe, pairs
from eval.comparison.paired import in_common
from eval.comparison.ranking import Comparison
from eval.encoders.load import Peers, load_peers
from eval.fidelity.measure import Settings
from eval.report import build as report_page
from eval.report.build import Named
from eval.report.page import write
from eval.report.sections.analyses import variance_table
from eval.report.sections.comparison import sentences
from eval.report.sections.comparison_tables import recipes_brief
from eval.report.sections.extraction import bytes_table, read_summary, stages_table
from eval.report.sections.scores import SCORE_TITLES, RunScores, terminal_table, verdict
from eval.report.tables import Column, Table, number_cell, text_cell, to_rich
from eval.runs import cached
from eval.runs.open_run import OpenRun, open_run
from eval.runs.select import Selected, select
from store.common.config import near_miss
from store.errors import InvalidInput, MissingFile

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


def report(
    runs: Sequence[Path],
    *,
    out: Path,
    extraction: Path | None,
    caches: Sequence[str],
    encoders: Path | None,
    settings: Mapping[str, int],
    pictures: int,
    baseline: str,
    device: str,
) -> None:
    """Write the page and show the final tables."""
    summary = read_summary(extraction) if extraction else None
    selected = select(runs)
    names = names_of(selected.runs)
    named = _named(selected, names, baseline=baseline)
    opened = open_all(names, caches=caches, device=device)
    made = report_page.build(
        opened,
        settings=Settings(**settings),
        summary=summary,
        picture_count=pictures,
        named=named,
        peers=_peers(encoders, opened),
        progress=True,
    )
    path = write(made.page, out)
    console = Console()
    if len(opened) == 1:
        show_scores(console, made.scores)
        console.print("", to_rich(bytes_table(made.views[0]), title="Bytes of one row"), "")
    else:
        show_comparison(console, made.compared, absent=named.absent)
    if summary is not None:
        console.print(to_rich(stages_table(summary), title="Extraction"), "")
    console.print(f"report: {path}")


def fidelity(
    runs: Sequence[Path],
    *,
    caches: Sequence[str],
    encoders: Path | None,
    settings: Mapping[str, int],
    by: str,
    table: Path | None,
    device: str,
) -> None:
    """Measure, show the tables, and write the scores as CSV if asked."""
    if by not in ("kind", "dataset"):
        raise InvalidInput(f"--by '{by}': expected kind or dataset")
    opened = open_all(names_of(select(runs).runs), caches=caches, device=device)
    peers = _peers(encoders, opened)
    tables = {
        name: cached.fidelity(run, Settings(**settings), peers=peers.get(name), progress=True)
        for name, run in opened.items()
    }
    scores = [report_page.scored(name, sums) for name, sums in in_common(tables).items()]
    show_scores(Console(), scores, by_dataset=by == "dataset")
    if table is not None:
        _write_csv(table, SCORE_COLUMNS, _score_rows(scores, by=by))


def pca(run: Path, *, out: Path, caches: Sequence[str], pictures: int, device: str) -> None:
    """Draw the figure."""
    from eval.analyses.pca import images_of
    from eval.report.figures import draw_pictures

    facts, table = cached.pictures(open_run(run, caches=caches, device=device), count=pictures)
    images = images_of(table)
    draw_pictures({model: images[model] for model in facts["models"]}, facts["captions"], out=out)
    Console().print(f"figure: {out}")


def variance(
    run: Path, *, out: Path, caches: Sequence[str], datasets: Sequence[str], shards: int, scheduler: str
) -> None:
    """Compute the curves, show how many components are needed, and write figure and numbers."""
    from eval.report.figures import draw_variance

    opened = open_run(run, caches=caches, device="cpu")
    found = cached.variance(opened, datasets=datasets, shards=shards, scheduler=scheduler, progress=True)
    rows = [
        (dataset, teacher, owner, kind, number + 1, share)
        for dataset, teachers in found.items()
        for teacher, owners in teachers.items()
        for owner, curves in owners.items()
        for kind in ("raw", "standardised")
        for number, share in enumerate(curves[kind])
    ]
    columns = ("dataset", "teacher", "tokens_of", "kind", "components", "explained_variance")
    draw_variance(found, out=out / "variance.png")
    _write_numbers(out, "variance", found, columns, rows)
    table = variance_table(found, brief=True)
    Console().print(to_rich(table, title="Components that hold 90 % of the variance"))
    Console().print(f"figure and numbers: {out}")


def correlation(
    run: Path, *, out: Path, caches: Sequence[str], window: int, probe: Mapping[str, int], device: str
) -> None:
    """Correlate logged updates and replayed ones, show both, and write figure and numbers."""
    from eval.report.figures import draw_correlation

    opened = open_run(run, caches=caches, device=device)
    found = {"log": cached.logged_correlation(opened, window=window)}
    if probe["steps"]:
        found["probe"] = cached.probed_correlation(opened, Probe(**probe), progress=True)
    rows = [
        (source, first, data["teachers"][i], data["teachers"][j], pearson[i][j], agreement[i][j])
        for source, data in found.items()
        for first, pearson, agreement in zip(data["first_step"], data["pearson"], data["sign_agreement"], strict=True)
        for i, j in pairs(data["teachers"])
    ]
    columns = ("source", "first_step", "first_teacher", "second_teacher", "pearson", "sign_agreement")
    draw_correlation(found, out=out / "correlation.png")
    _write_numbers(out, "correlation", found, columns, rows)
    Console().print(to_rich(_correlation_table(found), title="Correlation of loss updates"))
    Console().print(f"figure and numbers: {out}")


def attention(
    run: Path,
    *,
    out: Path,
    caches: Sequence[str],
    images: Sequence[Path],
    size: int,
    pictures: int,
    medoids: int,
    device: str,
) -> None:
    """Find typical attention maps, and write figure and numbers."""
    from eval.report.figures import draw_attention

    opened = open_run(run, caches=caches, device=device)
    shown = [(path.name, _centre(path, size)) for path in images]
    _, table = cached.attention(opened, count=pictures, k=medoids, images=shown)
    entries = table.to_pylist()
    draw_attention(entries, out=out / "attention.png")
    names = ("caption", "network", "medoid", "patch", "share")
    rows = [tuple(entry[name] for name in names) for entry in entries]
    plain = [{key: value for key, value in entry.items() if key != "photograph"} for entry in entries]
    _write_numbers(out, "attention", plain, names, rows)
    Console().print(f"figure and numbers: {out}")


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """Names that tell runs apart: as many of the last parts of their paths as that takes."""
    resolved = [run.resolve() for run in runs]
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return {"/".join(path.parts[-depth:]): run for path, run in zip(resolved, runs, strict=True)}


def open_all(runs: Mapping[str, Path], *, caches: Sequence[str], device: str) -> dict[str, OpenRun]:
    """Open runs by name."""
    return {name: open_run(run, caches=caches, device=device) for name, run in runs.items()}


def _named(selected: Selected, runs: Mapping[str, Path], *, baseline: str) -> Named:
    """What sweeps say of the runs, by name; `baseline` is a row's label or directory or a run's name.

    Raises:
        InvalidInput: no such baseline.
    """
    labels = {name: selected.labels[run] for name, run in runs.items() if run in selected.labels}
    chosen = {name for name, run in runs.items() if run in selected.baselines}
    if baseline:
        known = {name: {name, run.resolve().parent.name, labels.get(name, name)} for name, run in runs.items()}
        chosen = {name for name, words in known.items() if baseline in words}
        if not chosen:
            near = near_miss(baseline, {word for words in known.values() for word in words})
            raise InvalidInput(f"--baseline '{baseline}': no run or row of that name{near}; runs: {', '.join(runs)}")
    return Named(labels=labels, baselines=frozenset(chosen), titles=selected.titles, absent=selected.absent)


def show_scores(console: Console, scores: Sequence[RunScores], *, by_dataset: bool = False) -> None:
    """Cosine and smooth-L1 tables, and what they say."""
    for score in ("cosine", "smooth_l1"):
        table = terminal_table(scores, score, by_dataset=by_dataset)
        console.print(to_rich(table, title=SCORE_TITLES[score]), "")
    console.print(
        "n: photographs. before: the student before training. mean: the mean training token. linear: a linear map "
        "from the untrained student. 95 %: interval of the student, by resampling photographs.",
        style="dim",
    )
    for run in scores:
        prefix = f"{run.name}: " if len(scores) > 1 else ""
        for sentence in verdict(run):
            console.print(prefix + sentence)


def show_comparison(console: Console, compared: Comparison, *, absent: Sequence[str]) -> None:
    """Which recipe won, in a table and in words, and which runs of sweeps are missing."""
    table = recipes_brief(compared.deciding, compared.reference)
    console.print(to_rich(table, title=f"Cosine on {compared.deciding.aligned.kind}"))
    console.print(f"difference: to '{compared.reference.label}', on the same photographs.", "", style="dim")
    for sentence in (*sentences(compared), *(f"Not here: {reason}" for reason in absent)):
        console.print(sentence)


def _peers(file: Path | None, opened: Mapping[str, OpenRun]) -> dict[str, Peers]:
    """The foreign encoders of a file, on every run's grid."""
    if file is None:
        return {}
    return {
        name: load_peers(file, image_size=run.run.image_size, cell_px=run.run.distiller.cell_px, device=run.device)
        for name, run in opened.items()
    }


def _centre(path: Path, size: int) -> Any:
    """The centre of a photograph, uint8 (size, size, 3)."""
    from extract.views.decode import decode
    from extract.views.parameters import center
    from extract.views.render import render
    from store.errors import DecodeError

    try:
        image = decode(path.read_bytes())
    except OSError as error:
        raise MissingFile(f"image '{path}' cannot be read ({error.strerror})") from None
    except DecodeError as error:
        raise InvalidInput(f"image '{path}': {error}") from None
    return render(image, center(size, width=image.shape[1], height=image.shape[0]), image_size=size)


def _correlation_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    titles = {"log": "from the log", "probe": "on a probe batch"}
    columns = [Column(title="teachers"), *(Column(title=titles[source], numeric=True) for source in found)]
    teachers = next(iter(found.values()))["teachers"]
    rows = [
        [
            text_cell(f"{teachers[i]} and {teachers[j]}"),
            *(number_cell(data["mean_pearson"][i][j]) for data in found.values()),
        ]
        for i, j in pairs(teachers)
    ]
    return Table(columns=columns, rows=rows)


def _score_rows(scores: Sequence[RunScores], *, by: str) -> list[tuple[Any, ...]]:
    """One row for each run, predictor, group, teacher, token type and score."""
    return [
        (run.name, s.group, s.teacher, s.token_type, s.predictor, s.images, s.tokens, score, *s.of(score))
        for run in scores
        for s in (run.by_kind if by == "kind" else run.by_dataset)
        for score in SCORE_TITLES
    ]


def _write_numbers(folder: Path, name: str, value: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """FOLDER/NAME.json and NAME.csv."""
    (folder / f"{name}.json").write_text(json.dumps(value) + "\n", encoding="utf-8")
    _write_csv(folder / f"{name}.csv", columns, rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
