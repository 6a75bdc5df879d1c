"""The part of the page that says which recipe won, by how much, and whether that is more than noise."""

import math
from collections.abc import Sequence

from eval.comparison.ranking import Comparison, Lead
from eval.comparison.seed_noise import Contest, varying
from eval.report.charts import Dot, dot_chart
from eval.report.page import Block, Chart, ChartsBlock, Item, ListBlock, Section, TableBlock, TextBlock
from eval.report.sections import comparison_tables as tables
from eval.report.sections.comparison_tables import DIGITS, MEAN

MEAN_COLOUR = 7
INTRO = (
    "Cosine similarity on patch tokens, on rows that all runs here have held out in the same sense. Runs whose recipes "
    "differ in their seed alone are one line. Two kinds of noise are told apart. Seed noise: whether other seeds would "
    "turn a difference round, by a t-test with the deviation pooled over all recipes; p below 0.05 is beyond it. Other "
    "photographs: the 95 % interval of the difference on the same photographs, by the paired bootstrap.",
)
ONE_SEED = "Every recipe here was trained with one seed, so how much a seed changes is unknown: train some twice."


def section(found: Comparison, *, absent: Sequence[str] = ()) -> Section:
    """Winners, what one change is worth, all recipes with their differences to the baseline, and every run."""
    standings = found.deciding
    several = any(len(group.runs) > 1 for group in found.groups)
    comparable = len(found.groups) > 1 and bool(standings.aligned.images)
    blocks: list[Block] = [ListBlock(entries=[Item(text=sentence) for sentence in sentences(found)])]
    if not several:
        blocks.append(TextBlock(text=ONE_SEED))
    if comparable:
        blocks += [
            TableBlock(
                table=tables.recipes(standings, found.reference), title=f"Recipes, cosine on {standings.aligned.kind}"
            ),
            ChartsBlock(charts=_charts(found)),
            TableBlock(table=tables.winners(standings), title="Winner for each teacher"),
        ]
    if comparable and found.contests:
        blocks.append(TableBlock(table=tables.contests(found), title="What one change is worth"))
    for other in [entry for entry in found.standings.values() if entry is not standings and entry.aligned.images]:
        title = f"Recipes, cosine on {other.aligned.kind}"
        blocks.append(TableBlock(table=tables.recipes(other, found.reference), title=title, folded=f"Show {title}"))
    differing = varying(found.groups)
    if differing:
        table = tables.differing(found.groups, differing)
        blocks.append(TableBlock(table=table, title="What differs in the recipes"))
    blocks.append(TableBlock(table=tables.runs(found), title="Every run", folded="Show every run" if several else ""))
    if absent:
        blocks.append(ListBlock(entries=[Item(text=entry) for entry in absent], title="Runs that are not here"))
    return Section(anchor="comparison", short="Comparison", title="Which recipe won", intro=INTRO, blocks=blocks)


def sentences(found: Comparison) -> list[str]:
    """The verdict in words: the best recipe, the baseline, and what one change is worth."""
    standings = found.deciding
    best, *others = standings.ordered()
    mean = standings.spreads()[best.label]
    if math.isnan(mean.mean):
        return ["These runs have no held-out rows in common, so nothing can be said of which is best."]
    spoken = f" \N{PLUS-MINUS SIGN} {mean.std:.{DIGITS}f}" if mean.seeds > 1 else ""
    teachers, images = len(standings.aligned.teachers), len(standings.aligned.images)
    said = [
        f"Best: '{best.label}' with a cosine of {mean.mean:.{DIGITS}f}{spoken} on {standings.aligned.kind} ({images} "
        f"photographs; mean over {_count(teachers, 'teacher')} and {_count(mean.seeds, 'seed')})."
    ]
    if others:
        said.append(f"Next: {_phrase(standings.lead(best, others[0]))}.")
    if found.baselines and found.reference not in (best, *others[:1]):
        said.append(f"Baseline: {_phrase(standings.lead(best, found.reference))}.")
    for contest in found.contests:
        leads = standings.leads(contest.groups)
        said.append(f"{_title(contest)}: '{leads[0].first.label}' leads; {'; '.join(map(_phrase, leads))}.")
    return said


def _phrase(lead: Lead) -> str:
    known = {
        None: "with one seed each, whether a seed makes as much is unknown",
        True: f"beyond seed noise (p = {lead.probability:.2g})",
        False: f"within seed noise (p = {lead.probability:.2g})",
    }
    return f"'{lead.second.label}' is {lead.paired.value:.{DIGITS}f} lower, {known[lead.beyond_seeds]}"


def _title(contest: Contest) -> str:
    shared = tables.shared(contest)
    return f"{tables.section_name(contest)} (with {shared})" if shared else tables.section_name(contest)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _charts(found: Comparison) -> list[Chart]:
    """One line for each recipe, one dot for each teacher with its deviation over seeds; recipes as in the table."""
    charts = []
    for standings in [entry for entry in found.standings.values() if entry.aligned.images]:
        scores = {teacher: standings.spreads(teacher) for teacher in (*standings.aligned.teachers, None)}
        rows = []
        for group in found.deciding.ordered():
            dots = []
            for colour, (teacher, spreads) in enumerate(scores.items()):
                value = spreads[group.label]
                ends = (value.mean - value.std, value.mean + value.std)
                shown = colour if teacher else MEAN_COLOUR
                dots.append(Dot(label=teacher or MEAN, value=value.mean, low=ends[0], high=ends[1], colour=shown))
            rows.append((group.label, dots))
        svg = dot_chart(rows, x_label="cosine similarity, mean and deviation over seeds", from_zero=False)
        title = f"{standings.aligned.kind.capitalize()} ({len(standings.aligned.images)} photographs)"
        charts.append(Chart(svg=svg, title=title))
    return charts
