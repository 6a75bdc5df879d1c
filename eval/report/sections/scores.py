"""The fidelity part of the page, and the final table on the terminal: what the student learnt, against what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from eval.comparison import ranking
from eval.comparison.paired import Aligned, align
from eval.fidelity.metrics import SCORES
from eval.fidelity.predictors import BASELINES, LINEAR_STUDENT, MEAN, ORDER, ROUNDING, STUDENT, UNTRAINED
from eval.fidelity.scores import KINDS, PATCH, PREFIX, Score, ordered, pick
from eval.report.charts import Dot, dot_chart
from eval.report.page import Block, Card, Chart, ChartsBlock, Section, TableBlock
from eval.report.tables import MISSING, Cell, Column, Table, interval_cell, number_cell, text_cell

SCORE_TITLES = {
    "cosine": "Cosine similarity (higher is better)",
    "smooth_l1": "Smooth-L1 distance (lower is better)",
    "explained_variance": "Explained variance (higher is better, the mean token has 0)",
}
SHORT_TITLES = {
    UNTRAINED: "Before training",
    MEAN: "Mean token",
    STUDENT: "Student",
    ROUNDING: "Float16 ceiling",
    BASELINES[2]: "Linear map, untrained student",
    LINEAR_STUDENT: "Linear map, trained student",
}
COMMON = "Runs are scored on the rows that all of them have held out in the same sense."
SHOWN_RUNS = 3  # tables of more are folded
TERMINAL_TITLES = ("n", "before", "mean", "linear", "student", "95 %")
COLOURS = {STUDENT: 0, UNTRAINED: 7, MEAN: 4, BASELINES[2]: 1, LINEAR_STUDENT: 2, ROUNDING: 3}


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """The scores of one run: pooled by kind of held-out row, and by dataset."""

    name: str
    by_kind: Sequence[Score]
    by_dataset: Sequence[Score]


def section(runs: Sequence[RunScores], *, more: Sequence[Block] = ()) -> Section:
    """Tables and charts of the scores of one or several runs, and what else belongs to them."""
    draw = _chart if len(runs) == 1 else _chart_of_runs
    charts = [
        Chart(svg=draw(runs, kind), title=f"{kind[:1].upper()}{kind[1:]}, cosine similarity")
        for kind in ordered((score.group for run in runs for score in run.by_kind), KINDS)
    ]
    blocks: list[Block] = [ChartsBlock(charts=charts)]
    for score in SCORES:
        shown = (score == "cosine" and len(runs) <= SHOWN_RUNS) or (score == "smooth_l1" and len(runs) == 1)
        name = SCORE_TITLES[score].partition(" (")[0]
        folded = "" if shown else f"Show {name[:1].lower()}{name[1:]}"
        blocks.append(TableBlock(table=score_table(runs, score), title=SCORE_TITLES[score], folded=folded))
    blocks.append(
        TableBlock(
            table=score_table(runs, "cosine", by_dataset=True),
            title=SCORE_TITLES["cosine"],
            folded="Show cosine similarity dataset by dataset",
        )
    )
    blocks += more
    return Section(
        anchor="fidelity",
        short="Fidelity",
        title="Fidelity: how near the student comes to its teachers",
        intro=(
            "All on rows that training never used. Held-out views are new crops of photographs that were trained on; "
            "held-out photographs were never seen in any form, so they tell what was learnt rather than remembered. "
            "Small numbers under a value are its 95 % interval, from a bootstrap over photographs; with one "
            "photograph there is none.",
            *([COMMON] if len(runs) > 1 else []),
        ),
        blocks=blocks,
    )


def score_table(runs: Sequence[RunScores], score: str, *, by_dataset: bool = False) -> Table:
    """One row for each run, group of held-out rows, teacher and token type; one column for each predictor."""
    everything = [s for run in runs for s in (run.by_dataset if by_dataset else run.by_kind)]
    predictors = _columns_of(everything)
    prefixed = any(s.token_type == PREFIX for s in everything)
    columns = [
        *([Column(title="Run")] if len(runs) > 1 else []),
        Column(title="Dataset" if by_dataset else "Held out"),
        Column(title="Teacher"),
        *([Column(title="Tokens")] if prefixed else []),
        Column(title="Images", numeric=True, hint="photographs that the rows show"),
        *(Column(title=title_of(name), numeric=True, hint=name) for name in predictors),
    ]
    rows = []
    for run in runs:
        found = run.by_dataset if by_dataset else run.by_kind
        for group, teacher, token_type in _places(found):
            here = [s for s in found if (s.group, s.teacher, s.token_type) == (group, teacher, token_type)]
            lead = [text_cell(run.name)] if len(runs) > 1 else []
            lead += [text_cell(group), text_cell(teacher)]
            lead += [text_cell(token_type)] if prefixed else []
            lead.append(number_cell(here[0].images, digits=0))
            rows.append([*lead, *_score_cells(here, predictors, score)])
    return Table(columns=columns, rows=rows)


def terminal_table(runs: Sequence[RunScores], score: str, *, by_dataset: bool = False) -> Table:
    """The same scores narrow enough for a terminal: baselines, student and its interval."""
    several = len(runs) > 1
    prefixed = any(s.token_type == PREFIX for run in runs for s in run.by_kind)
    columns = [
        *([Column(title="run")] if several else []),
        Column(title="dataset" if by_dataset else "held out"),
        Column(title="teacher"),
        *([Column(title="tokens")] if prefixed else []),
        *(Column(title=title, numeric=True) for title in TERMINAL_TITLES),
    ]
    rows = []
    for run in runs:
        found = run.by_dataset if by_dataset else run.by_kind
        for group, teacher, token_type in _places(found):
            here = [s for s in found if (s.group, s.teacher, s.token_type) == (group, teacher, token_type)]
            numbers = _score_cells(here, [*BASELINES, STUDENT], score)
            student = pick(here, predictor=STUDENT)
            _, low, high = student.of(score) if student else (math.nan,) * 3
            interval = f"{low:.2f} to {high:.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(low) else MISSING
            lead = [text_cell(run.name)] if several else []
            lead += [text_cell(group.removeprefix("held-out ")), text_cell(teacher)]
            lead += [text_cell(token_type)] if prefixed else []
            rows.append([*lead, number_cell(here[0].images, digits=0), *numbers, text_cell(interval)])
    return Table(columns=columns, rows=rows)


def cards(run: RunScores) -> list[Card]:
    """One figure for each kind of held-out row: the cosine averaged over teachers, beside the best baseline."""
    found = []
    for kind in ordered((s.group for s in run.by_kind), KINDS):
        student = mean_score(run.by_kind, kind, STUDENT)
        rivals = {name: mean_score(run.by_kind, kind, name) for name in BASELINES}
        rivals = {name: value for name, value in rivals.items() if math.isfinite(value)}
        beside = ""
        if rivals:
            best = max(rivals, key=lambda name: rivals[name])
            beside = f"best baseline {rivals[best]:.3f} ({best})"
        found.append(Card(what=f"cosine on {kind}, mean over teachers", figure=f"{student:.3f}", beside=beside))
    return found


def verdict(run: RunScores) -> list[str]:
    """Sentences that say for how many teachers the student is above all baselines."""
    sentences = []
    for kind in ordered((s.group for s in run.by_kind), KINDS):
        teachers = ordered((s.teacher for s in run.by_kind if s.group == kind), ())
        above = [teacher for teacher in teachers if _beats(run.by_kind, kind, teacher)]
        missing = [teacher for teacher in teachers if teacher not in above]
        text = f"On {kind} the student's cosine is above every baseline for {len(above)} of {len(teachers)} teachers"
        sentences.append(text + (f" (not for {', '.join(missing)})." if missing else "."))
    return sentences


def mean_score(found: Sequence[Score], group: str, predictor: str, score: str = "cosine") -> float:
    """A score of patch tokens averaged over teachers; NaN if there is none."""
    values = [s.of(score)[0] for s in found if (s.group, s.predictor, s.token_type) == (group, predictor, PATCH)]
    return sum(values) / len(values) if values else math.nan


def title_of(predictor: str) -> str:
    """A predictor's name as a heading."""
    return SHORT_TITLES.get(predictor, predictor[:1].upper() + predictor[1:])


def _score_cells(here: Sequence[Score], predictors: Sequence[str], score: str) -> list[Cell]:
    """The cells of one row, the best of student and baselines in bold."""
    rivals = {s.predictor: s.of(score)[0] for s in here if s.predictor != ROUNDING}
    finite = {name: value for name, value in rivals.items() if math.isfinite(value)}
    choose = min if score == "smooth_l1" else max
    best = choose(finite, key=lambda name: finite[name]) if finite else ""
    cells = []
    for name in predictors:
        found = pick(here, predictor=name)
        if found is None:
            cells.append(text_cell(MISSING))
        elif name == ROUNDING:
            cells.append(_ceiling_cell(found.of(score)[0], perfect=0.0 if score == "smooth_l1" else 1.0))
        else:
            cells.append(interval_cell(*found.of(score), css="best" if name == best else ""))
    return cells


def _ceiling_cell(value: float, *, perfect: float) -> Cell:
    """The ceiling by how little it falls short of a perfect score."""
    if not math.isfinite(value):
        return text_cell(MISSING)
    short = abs(value - perfect)
    text = f"{short:.0e}".replace("-", "\N{MINUS SIGN}") if short else "0"
    return Cell(text=text if not perfect else f"1 \N{MINUS SIGN} {text}" if short else "1", sort=value)


def _columns_of(found: Sequence[Score]) -> list[str]:
    """Predictors in the order of the table: what there was before, what must be beaten, the student, peers, ceiling."""
    names = {s.predictor for s in found}
    known = [*BASELINES, STUDENT, LINEAR_STUDENT]
    peers = sorted(names - set(ORDER))
    return [name for name in [*known, *peers, ROUNDING] if name in names]


def _places(found: Sequence[Score]) -> list[tuple[str, str, str]]:
    """(group, teacher, token type) in the order of the tables."""
    places = {(s.group, s.teacher, s.token_type) for s in found}
    groups = ordered((group for group, _, _ in places), KINDS)
    return sorted(places, key=lambda place: (groups.index(place[0]), place[1], place[2] == PATCH))


def _beats(found: Sequence[Score], kind: str, teacher: str) -> bool:
    mine = {s.predictor: s for s in found if (s.group, s.teacher, s.token_type) == (kind, teacher, PATCH)}
    rivals = [mine[name].of("cosine")[0] for name in BASELINES if name in mine]
    return STUDENT in mine and all(mine[STUDENT].of("cosine")[0] > value for value in rivals)


def _chart_of_runs(runs: Sequence[RunScores], kind: str) -> str:
    """One line for each run, one dot for each teacher."""
    teachers = ordered((s.teacher for run in runs for s in run.by_kind), ())
    rows = []
    for run in runs:
        dots = []
        for number, teacher in enumerate(teachers):
            found = pick(run.by_kind, group=kind, teacher=teacher, token_type=PATCH, predictor=STUDENT)
            if found is not None:
                value, low, high = found.of("cosine")
                dots.append(Dot(label=teacher, value=value, low=low, high=high, colour=number))
        rows.append((run.name, dots))
    return dot_chart(rows, x_label="cosine similarity to the teacher's tokens", best=1.0)


def _chart(runs: Sequence[RunScores], kind: str) -> str:
    """One line for each teacher and token type, one dot for each predictor."""
    found = runs[0].by_kind
    rows = []
    for teacher, token_type in [place[1:] for place in _places(found) if place[0] == kind]:
        here = [s for s in found if (s.group, s.teacher, s.token_type) == (kind, teacher, token_type)]
        label = teacher if token_type == PATCH else f"{teacher}, {token_type}"
        dots = []
        for name in _columns_of(here):
            if name == ROUNDING:
                continue
            value, low, high = next(s for s in here if s.predictor == name).of("cosine")
            colour = COLOURS.get(name, 5)
            dots.append(Dot(label=title_of(name), value=value, low=low, high=high, colour=colour))
        rows.append((label, dots))
    return dot_chart(rows, x_label="cosine similarity to the teacher's tokens", best=1.0)


SHOWN = 5


def block(sums: pa.Table) -> TableBlock | None:
    """The photographs with the lowest cosine on patch tokens and the highest; None if there are too few to choose.

    Args:
        sums: per-image sums of the run (`eval.summary.IMAGE_SUMS`).
    """
    for kind in ranking.KINDS:
        found = align({"": sums}, kind=kind)
        if len(found.images) > 1:
            title = f"{kind[:1].upper()}{kind[1:]} that the student knows least of, and best"
            return TableBlock(table=_table(found), title=title, folded=f"Show {kind} by difficulty")
    return None


def _table(found: Aligned) -> Table:
    cosines = [_alone(found, number) for number in range(len(found.images))]
    order = sorted(range(len(cosines)), key=lambda number: cosines[number].score(""))
    shown = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
    columns = [Column(title="Photograph"), Column(title="Mean over teachers", numeric=True)]
    columns += [Column(title=teacher, numeric=True) for teacher in found.teachers]
    rows = [
        [
            text_cell(found.images[number].rpartition("#")[0]),
            number_cell(cosines[number].score("")),
            *(number_cell(cosines[number].score("", teacher=teacher)) for teacher in found.teachers),
        ]
        for number in shown
    ]
    return Table(columns=columns, rows=rows)


def _alone(found: Aligned, number: int) -> Aligned:
    """One image by itself."""
    return Aligned(
        kind=found.kind,
        images=(found.images[number],),
        teachers=found.teachers,
        sums={run: sums[number : number + 1] for run, sums in found.sums.items()},
    )
