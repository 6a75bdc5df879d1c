"""Tables of the comparison section: recipes over seeds, winners by teacher, effects of single changes, every run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from eval.comparison.ranking import DIGITS, Comparison, Lead, Standings, nan_last
from eval.comparison.seed_noise import Contest, Group, Spread
from eval.report.tables import MISSING, Cell, Column, Table, interval_cell, number_cell, text_cell
from train.run.headline import PATCH_COSINE

MEAN = "mean over teachers"
BEST_BASELINE = Column(title="Best baseline", numeric=True, hint="best of the baselines of the same runs")
SECTIONS = {"data": "Training data", "projector": "Projector", "sharing": "Data sharing", "optim": "Optimiser"}


def recipes(standings: Standings, reference: Group) -> Table:
    """List every recipe, best first: mean over seeds and its deviation, and the difference to the reference."""
    ordered = standings.ordered()
    columns = [
        Column(title="Recipe"),
        Column(title="Seeds", numeric=True),
        Column(
            title=f"{PATCH_COSINE.capitalize()}, {MEAN}",
            numeric=True,
            hint="below it the standard deviation over seeds",
        ),
        *([BEST_BASELINE] if standings.baselines_known else []),
        Column(title=f"Against {reference.label}", numeric=True, hint="below it the interval for other photographs"),
        Column(title="Beyond seed noise", hint="t-test at the 5 % level, deviation pooled over all recipes"),
        *(Column(title=teacher, numeric=True) for teacher in standings.aligned.teachers),
    ]
    scores = {teacher: standings.spreads(teacher) for teacher in (None, *standings.aligned.teachers)}
    rows = []
    for group in ordered:
        lead = standings.lead(group, reference)
        overall, *by_teacher = [
            _spread_cell(scores[teacher][group.label], css=_standing(standings, group, teacher)) for teacher in scores
        ]
        name = text_cell(group.label, css="best" if overall.css == "best" else "")
        row = [name, number_cell(scores[None][group.label].seeds, digits=0), overall]
        row += [_baseline_cell(standings, group)] if standings.baselines_known else []
        if group is reference:
            row += [text_cell(MISSING), text_cell("the reference")]
        else:
            row += [_difference_cell(lead), _beyond_cell(lead)]
        rows.append([*row, *by_teacher])
    return Table(columns=columns, rows=rows)


def recipes_brief(standings: Standings, reference: Group) -> Table:
    """List every recipe narrow enough for a terminal, without single teachers."""
    titles = ("seeds", PATCH_COSINE, "deviation", "best baseline", "difference", "p of seeds")
    columns = [Column(title="recipe"), *(Column(title=title, numeric=True) for title in titles)]
    spreads = standings.spreads()
    rows = []
    for group in standings.ordered():
        value, lead = spreads[group.label], standings.lead(group, reference)
        best = standings.best_baseline(group)
        figures = (value.std, best[1] if best else None, lead.paired.value)
        cells = [number_cell(value.mean, digits=DIGITS, css=_standing(standings, group))]
        cells += [number_cell(figure, digits=DIGITS) for figure in figures]
        known = group is not reference and not math.isnan(lead.probability)
        cells.append(text_cell(f"{lead.probability:.2g}" if known else None))
        rows.append([text_cell(group.label), number_cell(value.seeds, digits=0), *cells])
    return Table(columns=columns, rows=rows)


def winners(standings: Standings) -> Table:
    """List the best recipe of each teacher, its best baseline and its lead over the next."""
    known = standings.baselines_known
    columns = [
        Column(title="Teacher"),
        Column(title="Best recipe"),
        Column(title=PATCH_COSINE.capitalize(), numeric=True),
        *([BEST_BASELINE] if known else []),
    ]
    rows = []
    for teacher in (None, *standings.aligned.teachers):
        lead = standings.leads(standings.groups, teacher)[0]
        css = _standing(standings, lead.first, teacher)
        cosine = _spread_cell(standings.spreads(teacher)[lead.first.label], css="loses" if css == "loses" else "")
        rows.append(
            [
                text_cell(teacher or MEAN),
                _first_cell(standings, standings.groups, teacher),
                cosine,
                *([_baseline_cell(standings, lead.first, teacher)] if known else []),
                *_lead_cells(lead),
            ]
        )
    return Table(columns=[*columns, *_lead_columns("Next")], rows=rows)


def contests(compared: Comparison) -> Table:
    """List, for recipes that differ in one section alone, the lead of the best over each of the others."""
    with_shared = any(contest.shared for contest in compared.contests)
    columns = [Column(title="What differs"), *([Column(title="With")] if with_shared else []), Column(title="Best")]
    rows = []
    for contest in compared.contests:
        for lead in compared.deciding.leads(contest.groups):
            start = [text_cell(section_name(contest)), *([text_cell(shared(contest))] if with_shared else [])]
            rows.append([*start, _first_cell(compared.deciding, contest.groups), *_lead_cells(lead)])
    return Table(columns=[*columns, *_lead_columns("Other")], rows=rows)


def differing(groups: Sequence[Group], values: Mapping[str, Sequence[str]]) -> Table:
    """List the recipe keys that are not the same in all recipes, with the value of each."""
    columns = [Column(title="Recipe"), *(Column(title=key) for key in values)]
    rows = [
        [text_cell(group.label), *(text_cell(_plain(key, by_group[number])) for key, by_group in values.items())]
        for number, group in enumerate(groups)
    ]
    return Table(columns=columns, rows=rows)


def runs(compared: Comparison) -> Table:
    """List every run, best first."""
    standings = [entry for entry in compared.standings.values() if entry.aligned.images]
    columns = [Column(title="Run"), Column(title="Recipe"), Column(title="Seed", numeric=True)]
    columns += [Column(title=f"{PATCH_COSINE.capitalize()}, {entry.aligned.kind}", numeric=True) for entry in standings]
    scores = [{run: entry.aligned.score(run) for run in compared.recipes} for entry in standings]
    ordered = sorted(compared.recipes, key=lambda run: [nan_last(-values[run]) for values in scores])
    rows = [
        [
            text_cell(run),
            text_cell(compared.label(run)),
            number_cell(compared.recipes[run].seed, digits=0),
            *(number_cell(values[run], digits=DIGITS) for values in scores),
        ]
        for run in ordered
    ]
    return Table(columns=columns, rows=rows)


def section_name(contest: Contest) -> str:
    """Return the title of the section that a contest is about."""
    return SECTIONS.get(contest.section, contest.section.capitalize())


def shared(contest: Contest) -> str:
    """List the settings of other sections that tell contests about the same section apart."""
    return ", ".join(f"{key} {_plain(key, value)}" for key, value in contest.shared.items())


def _lead_columns(other: str) -> list[Column]:
    return [
        Column(title=other),
        Column(title="Ahead by", numeric=True, hint="below it the interval for other photographs"),
        Column(title="Beyond seed noise"),
    ]


def _lead_cells(lead: Lead) -> list[Cell]:
    return [text_cell(lead.second.label), _difference_cell(lead), _beyond_cell(lead)]


def _standing(standings: Standings, group: Group, teacher: str | None = None) -> str:
    """Return the style of a recipe's score: no better than a baseline, best or tied for it, or neither."""
    if standings.beats_baselines(group, teacher) is False:
        return "loses"
    return "best" if group in standings.first(teacher) else ""


def _first_cell(standings: Standings, groups: Sequence[Group], teacher: str | None = None) -> Cell:
    """Name the best of some recipes and those tied with it, in bold if it is alone and better than its baselines."""
    first = standings.first(teacher, among=groups)
    alone = len(first) == 1 and standings.beats_baselines(first[0], teacher) is not False
    return text_cell(" = ".join(group.label for group in first), css="best" if alone else "")


def _baseline_cell(standings: Standings, group: Group, teacher: str | None = None) -> Cell:
    """Make the cell of the best baseline of a recipe's runs, below it its name."""
    best = standings.best_baseline(group, teacher)
    return text_cell(None) if best is None else replace(number_cell(best[1], digits=DIGITS), beside=best[0])


def _spread_cell(value: Spread, *, css: str = "") -> Cell:
    """Make the cell of a mean over seeds, below it the deviation."""
    cell = number_cell(value.mean, digits=DIGITS, css=css)
    return cell if math.isnan(value.std) else replace(cell, beside=f"\N{PLUS-MINUS SIGN} {value.std:.{DIGITS}f}")


def _difference_cell(lead: Lead) -> Cell:
    paired = lead.paired
    decided = paired.clear and lead.beyond_seeds is not False
    css = "" if not decided else "up" if paired.value > 0 else "down"
    cell = interval_cell(paired.value, paired.low, paired.high, sign=True, css=css, digits=DIGITS)
    unknown = math.isfinite(paired.value) and math.isnan(paired.low) and paired.images > 1
    return replace(cell, beside="no interval") if unknown else cell


def _beyond_cell(lead: Lead) -> Cell:
    if math.isnan(lead.paired.value):
        return text_cell(None)
    if lead.beyond_seeds is None:
        return text_cell("unknown", beside="one seed each")
    return text_cell("yes" if lead.beyond_seeds else "no", beside=f"p = {lead.probability:.2g}")


def _plain(key: str, value: str) -> str:
    """Format a value of a recipe without Python's quotes and brackets; an empty choice of data means all data."""
    if value in ("[]", "''"):
        return "all" if key.startswith("data.") else "none"
    return value.strip("[]").replace("'", "")
