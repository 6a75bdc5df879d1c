"""Fidelity section: scores of student and baselines by teacher, for the page and the terminal."""

import math
from collections.abc import Mapping, Sequence

import pyarrow as pa

from eval.comparison.baselines import beats_baselines, best_baseline, is_better
from eval.comparison.paired import Aligned, align
from eval.comparison.ranking import DECIDING_KINDS, nan_last
from eval.fidelity.metrics import SCORES
from eval.fidelity.predictors import (
    BASELINES,
    CEILINGS,
    CODE,
    LINEAR_STUDENT,
    MEAN,
    ORDER,
    ROUNDING,
    STUDENT,
    UNTRAINED,
)
from eval.fidelity.scores import KINDS, PATCH, PREFIX, Score, ordered, pick
from eval.report.charts import Dot, dot_chart
from eval.report.page import Block, Card, Chart, ChartsBlock, Section, TableBlock
from eval.report.sections.score_targets import RunScores, by_targets
from eval.report.tables import MISSING, Cell, Column, Table, interval_cell, number_cell, text_cell
from train.run.headline import PATCH_COSINE

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
    CODE: "Ceiling of the code",
    BASELINES[2]: "Linear map, untrained student",
    LINEAR_STUDENT: "Linear map, trained student",
}
COMMON = "Runs are scored on the rows that are held out for all of them, as the same kind."
UNFOLDED_RUNS = 3  # tables of more runs are folded
TERMINAL_TITLES = ("n", "before", "mean", "linear", "student", "95 %")
COLOURS = {STUDENT: 0, UNTRAINED: 7, MEAN: 4, BASELINES[2]: 1, LINEAR_STUDENT: 2, ROUNDING: 3, CODE: 6}
DIGITS = 3
SHOWN_PHOTOGRAPHS = 5  # of the lowest and of the highest cosine


def section(runs: Sequence[RunScores], *, more: Sequence[Block] = ()) -> Section:
    """Show tables and charts of the scores of one or several runs.

    Args:
        runs: scores of each run.
        more: blocks to add at the end.
    """
    several = len(runs) > 1
    chart = _chart_of_runs if several else _chart
    charts = [
        Chart(svg=chart(runs, kind), title=f"{kind[:1].upper()}{kind[1:]}, {PATCH_COSINE if several else 'cosine'}")
        for kind in ordered((score.group for run in runs for score in run.by_kind), KINDS)
    ]
    blocks: list[Block] = [ChartsBlock(charts=charts)]
    parts = by_targets(runs)
    for score in SCORES:
        shown = (score == "cosine" and len(runs) <= UNFOLDED_RUNS) or (score == "smooth_l1" and len(runs) == 1)
        blocks += [_table_block(part, score, targets=targets, shown=shown) for targets, part in parts]
    blocks += [_table_block(part, "cosine", targets=targets, by_dataset=True) for targets, part in parts]
    blocks += more
    return Section(
        anchor="fidelity",
        short="Fidelity",
        title="Fidelity: how well the student predicts its teachers",
        intro=(
            "All on rows that training never used. Held-out views are new crops of photographs that were trained on; "
            "held-out photographs were never seen in any form, so they show what was learnt rather than memorised. "
            "Small numbers under a value are its 95 % interval, from a bootstrap over photographs; with one "
            "photograph there is none. In each row of a table the best value is bold; a red value with a triangle is "
            "no better than a baseline (before training, mean token, or linear map of the untrained student).",
            *([COMMON] if several else []),
        ),
        blocks=blocks,
    )


def _table_block(
    runs: Sequence[RunScores], score: str, *, targets: str, shown: bool = False, by_dataset: bool = False
) -> TableBlock:
    """Make a table with its title, which says what the targets are unless they are true tokens."""
    name, suffix = SCORE_TITLES[score].partition(" (")[0], f", {targets}" if targets else ""
    folded = "" if shown else f"Show {name[:1].lower()}{name[1:]}{' dataset by dataset' * by_dataset}{suffix}"
    table = score_table(runs, score, by_dataset=by_dataset)
    return TableBlock(table=table, title=SCORE_TITLES[score] + suffix, folded=folded)


def score_table(runs: Sequence[RunScores], score: str, *, by_dataset: bool = False) -> Table:
    """Make a table of one row for each run, group of held-out rows, teacher and token type; one column a predictor."""
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
        for (group, teacher, token_type), scores in _grouped(run.by_dataset if by_dataset else run.by_kind):
            lead = [text_cell(run.name)] if len(runs) > 1 else []
            lead += [text_cell(group), text_cell(teacher)]
            lead += [text_cell(token_type)] if prefixed else []
            lead.append(number_cell(scores[0].images, digits=0))
            rows.append([*lead, *_score_cells(scores, predictors, score)])
    return Table(columns=columns, rows=rows)


def terminal_table(runs: Sequence[RunScores], score: str, *, by_dataset: bool = False) -> Table:
    """Make a table narrow enough for a terminal: baselines, student and its interval."""
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
        for (group, teacher, token_type), scores in _grouped(run.by_dataset if by_dataset else run.by_kind):
            numbers = _score_cells(scores, [*BASELINES, STUDENT], score)
            student = pick(scores, predictor=STUDENT)
            _, low, high = student.of(score) if student else (math.nan,) * 3
            interval = f"{low:.2f} to {high:.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(low) else MISSING
            lead = [text_cell(run.name)] if several else []
            lead += [text_cell(group.removeprefix("held-out ")), text_cell(teacher)]
            lead += [text_cell(token_type)] if prefixed else []
            rows.append([*lead, number_cell(scores[0].images, digits=0), *numbers, text_cell(interval)])
    return Table(columns=columns, rows=rows)


def cards(run: RunScores) -> list[Card]:
    """Make one card for each kind of held-out rows: the patch cosine averaged over teachers, and the best baseline."""
    made = []
    for kind in ordered((s.group for s in run.by_kind), KINDS):
        means = mean_scores(run.by_kind, kind)
        best = best_baseline(means)
        beaten = beats_baselines(means) is False
        beside = f"{'no better than' if beaten else 'best baseline'} {best[1]:.3f} ({best[0]})" if best else ""
        student = means[STUDENT]
        made.append(
            Card(
                what=f"{PATCH_COSINE} on {kind}, mean over teachers",
                figure=f"{student:z.3f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(student) else MISSING,
                beside=beside,
                css="loses" if beaten else "",
            )
        )
    return made


def warnings(run: RunScores) -> list[str]:
    """Write a warning for each kind of held-out rows on which the student is no better than a baseline, or NaN."""
    texts = []
    for kind in ordered((s.group for s in run.by_kind), KINDS):
        means = mean_scores(run.by_kind, kind)
        students = [s for s in run.by_kind if (s.group, s.predictor) == (kind, STUDENT)]
        broken = ordered((s.teacher for s in students if not math.isfinite(s.of("cosine")[0])), ())
        if broken:
            texts.append(f"On {kind} the student's predictions for {', '.join(broken)} are not numbers (NaN).")
        best = best_baseline(means)
        if best is not None and beats_baselines(means) is False:
            texts.append(
                f"On {kind} the student is no better than a baseline: its {PATCH_COSINE}, averaged over teachers, is "
                f"{means[STUDENT]:.3f}, that of the {best[0]} {best[1]:.3f}."
            )
    return texts


def verdict(run: RunScores) -> list[str]:
    """Write sentences that tell for how many teachers the student's patch cosine is above all baselines."""
    sentences = []
    for kind in ordered((s.group for s in run.by_kind), KINDS):
        teachers = ordered((s.teacher for s in run.by_kind if s.group == kind), ())
        above = {t: beats_baselines(_by_predictor(run.by_kind, kind, t)) for t in teachers}
        others = {
            "not for": [teacher for teacher in teachers if above[teacher] is False],
            "unknown for": [teacher for teacher in teachers if above[teacher] is None],
        }
        count = sum(value is True for value in above.values())
        text = f"On {kind} the student's {PATCH_COSINE} is above every baseline for {count} of {len(teachers)} teachers"
        listed = "; ".join(f"{what} {', '.join(names)}" for what, names in others.items() if names)
        sentences.append(text + (f" ({listed})." if listed else "."))
    return sentences


def photographs_by_difficulty(sums: pa.Table) -> TableBlock | None:
    """List the photographs with the lowest and the highest cosine on patch tokens; None if there are fewer than two.

    Args:
        sums: per-image sums of the run, schema `eval.fidelity.scores.IMAGE_SUMS`.
    """
    for kind in DECIDING_KINDS:
        aligned = align({"": sums}, kind=kind)
        if len(aligned.images) > 1:
            title = f"{kind[:1].upper()}{kind[1:]} that the student predicts worst, and best"
            return TableBlock(table=_difficulty_table(aligned), title=title, folded=f"Show {kind} by difficulty")
    return None


def mean_scores(scores: Sequence[Score], group: str) -> dict[str, float]:
    """Average the patch cosines of student and baselines over teachers; NaN for one that lacks a teacher."""
    teachers = {s.teacher for s in scores if (s.group, s.token_type) == (group, PATCH)}
    by_teacher = [_by_predictor(scores, group, teacher) for teacher in teachers]
    return {
        name: sum(values.get(name, math.nan) for values in by_teacher) / len(by_teacher) if by_teacher else math.nan
        for name in (STUDENT, *BASELINES)
    }


def title_of(predictor: str) -> str:
    """Return the heading of a predictor."""
    return SHORT_TITLES.get(predictor, predictor[:1].upper() + predictor[1:])


def _score_cells(scores: Sequence[Score], predictors: Sequence[str], score: str) -> list[Cell]:
    """Make the cells of one row: the best values in bold, marked those that are no better than a baseline."""
    values = {s.predictor: s.of(score)[0] for s in scores if s.predictor not in CEILINGS}
    finite = [value for value in values.values() if math.isfinite(value)]
    best = math.nan
    for value in finite:
        best = value if math.isnan(best) or is_better(value, best, score=score) else best
    cells = []
    for name in predictors:
        of_predictor = pick(scores, predictor=name)
        if of_predictor is None:
            cells.append(text_cell(MISSING))
        elif name == ROUNDING:
            cells.append(_ceiling_cell(of_predictor.of(score)[0], perfect=0.0 if score == "smooth_l1" else 1.0))
        elif name == CODE:
            cells.append(number_cell(of_predictor.of(score)[0], digits=DIGITS))
        else:
            css = "best" if round(values[name], DIGITS) == round(best, DIGITS) else ""
            if name not in BASELINES and beats_baselines(values, score=score, predictor=name) is False:
                css = "loses"
            cells.append(interval_cell(*of_predictor.of(score), css=css, digits=DIGITS))
    return cells


def _ceiling_cell(value: float, *, perfect: float) -> Cell:
    """Make the cell of the ceiling, which shows its small distance from a perfect score."""
    if not math.isfinite(value):
        return text_cell(MISSING)
    distance = abs(value - perfect)
    text = f"{distance:.0e}".replace("-", "\N{MINUS SIGN}") if distance else "0"
    return Cell(text=text if not perfect else f"1 \N{MINUS SIGN} {text}" if distance else "1", sort=value)


def _columns_of(scores: Sequence[Score]) -> list[str]:
    """Order predictors as columns: baselines, the student, linear maps from it and from peers, the ceiling."""
    names = {s.predictor for s in scores}
    known = [*BASELINES, STUDENT, LINEAR_STUDENT]
    peers = sorted(names - set(ORDER))
    return [name for name in [*known, *peers, *CEILINGS] if name in names]


def _grouped(scores: Sequence[Score]) -> list[tuple[tuple[str, str, str], list[Score]]]:
    """Group scores by (group, teacher, token type), in the order of the rows of tables."""
    by_key: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        by_key.setdefault((score.group, score.teacher, score.token_type), []).append(score)
    groups = ordered((group for group, _, _ in by_key), KINDS)
    return sorted(by_key.items(), key=lambda item: (groups.index(item[0][0]), item[0][1], item[0][2] == PATCH))


def _by_predictor(scores: Sequence[Score], kind: str, teacher: str) -> dict[str, float]:
    """Return the patch cosine for a teacher of every predictor."""
    of_teacher = [s for s in scores if (s.group, s.teacher, s.token_type) == (kind, teacher, PATCH)]
    return {s.predictor: s.of("cosine")[0] for s in of_teacher}


def _dot(score: Score, *, label: str, colour: int, values: Mapping[str, float]) -> Dot:
    """Make the dot of a predictor, hollow if it is no baseline and no better than one; `values` predictor -> cosine."""
    value, low, high = score.of("cosine")
    name = score.predictor
    hollow = name not in BASELINES and beats_baselines(values, predictor=name) is False
    return Dot(label=label, value=value, low=low, high=high, colour=colour, hollow=hollow)


def _chart(runs: Sequence[RunScores], kind: str) -> str:
    """Draw one line for each teacher and token type, one dot for each predictor."""
    rows = []
    for (group, teacher, token_type), scores in _grouped(runs[0].by_kind):
        if group != kind:
            continue
        label = teacher if token_type == PATCH else f"{teacher}, {token_type}"
        dots = []
        values = {s.predictor: s.of("cosine")[0] for s in scores}
        for name in _columns_of(scores):
            if name == ROUNDING:
                continue
            score = next(s for s in scores if s.predictor == name)
            dots.append(_dot(score, label=title_of(name), colour=COLOURS.get(name, 5), values=values))
        rows.append((label, dots))
    return dot_chart(rows, x_label="cosine similarity to the teacher's tokens", best=1.0)


def _chart_of_runs(runs: Sequence[RunScores], kind: str) -> str:
    """Draw one line for each run, one dot for each teacher."""
    teachers = ordered((s.teacher for run in runs for s in run.by_kind), ())
    rows = []
    for run in runs:
        dots = []
        for number, teacher in enumerate(teachers):
            score = pick(run.by_kind, group=kind, teacher=teacher, token_type=PATCH, predictor=STUDENT)
            if score is not None:
                values = _by_predictor(run.by_kind, kind, teacher)
                dots.append(_dot(score, label=teacher, colour=number, values=values))
        rows.append((run.name, dots))
    return dot_chart(rows, x_label=PATCH_COSINE, best=1.0)


def _difficulty_table(aligned: Aligned) -> Table:
    single = [_single_image(aligned, number) for number in range(len(aligned.images))]
    order = sorted(range(len(single)), key=lambda number: nan_last(single[number].score("")))
    if len(order) > 2 * SHOWN_PHOTOGRAPHS:
        order = [*order[:SHOWN_PHOTOGRAPHS], *order[-SHOWN_PHOTOGRAPHS:]]
    columns = [Column(title="Photograph"), Column(title=f"{title_of(PATCH_COSINE)}, mean over teachers", numeric=True)]
    columns += [Column(title=teacher, numeric=True) for teacher in aligned.teachers]
    rows = [
        [
            text_cell(aligned.images[number].rpartition("#")[0]),
            number_cell(single[number].score("")),
            *(number_cell(single[number].score("", teacher=teacher)) for teacher in aligned.teachers),
        ]
        for number in order
    ]
    return Table(columns=columns, rows=rows)


def _single_image(aligned: Aligned, number: int) -> Aligned:
    """Select one image."""
    return Aligned(
        kind=aligned.kind,
        images=(aligned.images[number],),
        teachers=aligned.teachers,
        sums={run: sums[number : number + 1] for run, sums in aligned.sums.items()},
    )
