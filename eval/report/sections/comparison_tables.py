"""Tables of a comparison: recipes with their seeds, winners, what one change is worth, and every run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from eval.comparison.ranking import Comparison, Lead, Standings
from eval.comparison.seed_noise import Contest, Group, Spread
from eval.report.tables import MISSING, Cell, Column, Table, interval_cell, number_cell, text_cell

DIGITS = 4
MEAN = "mean over teachers"
SECTIONS = {"data": "Training data", "projector": "Projector", "sharing": "Data sharing", "optim": "Optimiser"}


def recipes(standings: Standings, reference: Group) -> Table:
    """Every recipe, best first: mean over seeds and its deviation, and the difference to the reference."""
    ordered = standings.ordered()
    columns = [
        Column(title="Recipe"),
        Column(title="Seeds", numeric=True),
        Column(title=MEAN.capitalize(), numeric=True, hint="below it the standard deviation over seeds"),
        Column(title=f"Against {reference.label}", numeric=True, hint="below it the interval for other photographs"),
        Column(title="Beyond seed noise", hint="t-test at the 5 % level, deviation pooled over all recipes"),
        *(Column(title=teacher, numeric=True) for teacher in standings.aligned.teachers),
    ]
    scores = {teacher: standings.spreads(teacher) for teacher in (None, *standings.aligned.teachers)}
    best = {teacher: standings.ordered(teacher)[0].label for teacher in scores}
    rows = []
    for group in ordered:
        lead = standings.lead(group, reference)
        overall, *by_teacher = [
            _spread_cell(scores[teacher][group.label], best=best[teacher] == group.label) for teacher in scores
        ]
        row = [text_cell(group.label, css=overall.css), number_cell(scores[None][group.label].seeds, digits=0), overall]
        if group is reference:
            row += [text_cell(MISSING), text_cell("this is it")]
        else:
            row += [_difference_cell(lead), _beyond_cell(lead)]
        rows.append([*row, *by_teacher])
    return Table(columns=columns, rows=rows)


def recipes_brief(standings: Standings, reference: Group) -> Table:
    """The same narrow enough for a terminal, without single teachers."""
    titles = ("seeds", "cosine", "deviation", "difference", "p of seeds")
    columns = [Column(title="recipe"), *(Column(title=title, numeric=True) for title in titles)]
    spreads = standings.spreads()
    rows = []
    for group in standings.ordered():
        value, lead = spreads[group.label], standings.lead(group, reference)
        cells = [number_cell(figure, digits=DIGITS) for figure in (value.mean, value.std, lead.paired.value)]
        known = group is not reference and not math.isnan(lead.probability)
        cells.append(text_cell(f"{lead.probability:.2g}" if known else None))
        rows.append([text_cell(group.label), number_cell(value.seeds, digits=0), *cells])
    return Table(columns=columns, rows=rows)


def winners(standings: Standings) -> Table:
    """The best recipe of each teacher and how far it is before the next."""
    columns = [Column(title="Teacher"), Column(title="Best recipe"), Column(title="Cosine", numeric=True)]
    rows = []
    for teacher in (None, *standings.aligned.teachers):
        lead = standings.leads(standings.groups, teacher)[0]
        cosine = _spread_cell(standings.spreads(teacher)[lead.first.label])
        rows.append([text_cell(teacher or MEAN), text_cell(lead.first.label, css="best"), cosine, *_lead_cells(lead)])
    return Table(columns=[*columns, *_lead_columns("Next")], rows=rows)


def contests(found: Comparison) -> Table:
    """For recipes that differ in one section alone: the best before each of the others."""
    told = any(contest.shared for contest in found.contests)
    columns = [Column(title="What differs"), *([Column(title="With")] if told else []), Column(title="Best")]
    rows = []
    for contest in found.contests:
        for lead in found.deciding.leads(contest.groups):
            start = [text_cell(section_name(contest)), *([text_cell(shared(contest))] if told else [])]
            rows.append([*start, text_cell(lead.first.label, css="best"), *_lead_cells(lead)])
    return Table(columns=[*columns, *_lead_columns("Other")], rows=rows)


def _lead_columns(other: str) -> list[Column]:
    return [
        Column(title=other),
        Column(title="Ahead by", numeric=True, hint="below it the interval for other photographs"),
        Column(title="Beyond seed noise"),
    ]


def _lead_cells(lead: Lead) -> list[Cell]:
    return [text_cell(lead.second.label), _difference_cell(lead), _beyond_cell(lead)]


def differing(groups: Sequence[Group], values: Mapping[str, Sequence[str]]) -> Table:
    """Recipe keys that are not the same in all, with the value of each recipe."""
    columns = [Column(title="Recipe"), *(Column(title=key) for key in values)]
    rows = [
        [text_cell(group.label), *(text_cell(_plain(key, found[place])) for key, found in values.items())]
        for place, group in enumerate(groups)
    ]
    return Table(columns=columns, rows=rows)


def runs(found: Comparison) -> Table:
    """Every run, best first."""
    standings = [entry for entry in found.standings.values() if entry.aligned.images]
    columns = [Column(title="Run"), Column(title="Recipe"), Column(title="Seed", numeric=True)]
    columns += [Column(title=f"Cosine, {entry.aligned.kind}", numeric=True) for entry in standings]
    scores = [{run: entry.aligned.score(run) for run in found.recipes} for entry in standings]
    ordered = sorted(found.recipes, key=lambda run: [-values[run] for values in scores])
    rows = [
        [
            text_cell(run),
            text_cell(found.label(run)),
            number_cell(found.recipes[run].seed, digits=0),
            *(number_cell(values[run], digits=DIGITS) for values in scores),
        ]
        for run in ordered
    ]
    return Table(columns=columns, rows=rows)


def section_name(contest: Contest) -> str:
    """What a contest is about."""
    return SECTIONS.get(contest.section, contest.section.capitalize())


def shared(contest: Contest) -> str:
    """What other sections have, as far as it varies on the page: without it two contests could not be told apart."""
    return ", ".join(f"{key} {_plain(key, value)}" for key, value in contest.shared.items())


def _spread_cell(value: Spread, *, best: bool = False) -> Cell:
    """A mean over seeds, below it the deviation."""
    cell = number_cell(value.mean, digits=DIGITS, css="best" if best else "")
    return cell if math.isnan(value.std) else replace(cell, beside=f"\N{PLUS-MINUS SIGN} {value.std:.{DIGITS}f}")


def _difference_cell(lead: Lead) -> Cell:
    found = lead.paired
    css = "" if not found.clear else "up" if found.value > 0 else "down"
    return interval_cell(found.value, found.low, found.high, sign=True, css=css, digits=DIGITS)


def _beyond_cell(lead: Lead) -> Cell:
    if lead.beyond_seeds is None:
        return text_cell("unknown", beside="one seed each")
    return text_cell("yes" if lead.beyond_seeds else "no", beside=f"p = {lead.probability:.2g}")


def _plain(key: str, value: str) -> str:
    """A recipe's value without Python's quotes and brackets; an empty choice of data takes all there is."""
    if value in ("[]", "''"):
        return "all" if key.startswith("data.") else "none"
    return value.strip("[]").replace("'", "")
