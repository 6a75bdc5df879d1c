"""Comparison section: the best recipe, its lead, and whether the lead is more than noise."""

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
    "Cosine similarity on patch tokens, on rows that are held out for all runs here, as the same kind. Runs whose "
    "recipes differ in their seed alone are one row. Two kinds of noise are distinguished. Seed noise: whether other "
    "seeds could reverse a difference, by a t-test with the deviation pooled over all recipes; p below 0.05 is beyond "
    "it. Other photographs: the 95 % interval of the difference on the same photographs, by the paired bootstrap.",
)
ONE_SEED = "Every recipe here was trained with one seed, so the effect of a seed is unknown: train some with two seeds."


def section(compared: Comparison, *, absent: Sequence[str] = ()) -> Section:
    """Show the verdict, all recipes with their differences to the baseline, winners by teacher, and every run.

    Args:
        compared: the runs, as recipes over seeds.
        absent: runs of sweeps that are missing, with the reason.
    """
    standings = compared.deciding
    several = any(len(group.runs) > 1 for group in compared.groups)
    comparable = len(compared.groups) > 1 and bool(standings.aligned.images)
    blocks: list[Block] = [ListBlock(entries=[Item(text=sentence) for sentence in sentences(compared)])]
    if not several:
        blocks.append(TextBlock(text=ONE_SEED))
    if comparable:
        blocks += [
            TableBlock(
                table=tables.recipes(standings, compared.reference),
                title=f"Recipes, cosine on {standings.aligned.kind}",
            ),
            ChartsBlock(charts=_charts(compared)),
            TableBlock(table=tables.winners(standings), title="Winner for each teacher"),
        ]
    if comparable and compared.contests:
        blocks.append(TableBlock(table=tables.contests(compared), title="Effect of a single change"))
    for other in [entry for entry in compared.standings.values() if entry is not standings and entry.aligned.images]:
        title = f"Recipes, cosine on {other.aligned.kind}"
        blocks.append(TableBlock(table=tables.recipes(other, compared.reference), title=title, folded=f"Show {title}"))
    differing = varying(compared.groups)
    if differing:
        table = tables.differing(compared.groups, differing)
        blocks.append(TableBlock(table=table, title="What differs in the recipes"))
    blocks.append(
        TableBlock(table=tables.runs(compared), title="Every run", folded="Show every run" if several else "")
    )
    if absent:
        blocks.append(ListBlock(entries=[Item(text=entry) for entry in absent], title="Runs that are not here"))
    return Section(anchor="comparison", short="Comparison", title="Which recipe won", intro=INTRO, blocks=blocks)


def sentences(compared: Comparison) -> list[str]:
    """Write the verdict: the best recipe, its lead over the next and the baseline, and the effect of single changes."""
    standings = compared.deciding
    best, *others = standings.ordered()
    mean = standings.spreads()[best.label]
    if math.isnan(mean.mean):
        return ["These runs have no held-out rows in common, so they cannot be compared."]
    deviation = f" \N{PLUS-MINUS SIGN} {mean.std:.{DIGITS}f}" if mean.seeds > 1 else ""
    teachers, images = len(standings.aligned.teachers), len(standings.aligned.images)
    verdict = [
        f"Best: '{best.label}' with a cosine of {mean.mean:.{DIGITS}f}{deviation} on {standings.aligned.kind} "
        f"({images} photographs; mean over {_count(teachers, 'teacher')} and {_count(mean.seeds, 'seed')})."
    ]
    if others:
        verdict.append(f"Next: {_phrase(standings.lead(best, others[0]))}.")
    if compared.baselines and compared.reference not in (best, *others[:1]):
        verdict.append(f"Baseline: {_phrase(standings.lead(best, compared.reference))}.")
    for contest in compared.contests:
        leads = standings.leads(contest.groups)
        verdict.append(f"{_title(contest)}: '{leads[0].first.label}' leads; {'; '.join(map(_phrase, leads))}.")
    return verdict


def _phrase(lead: Lead) -> str:
    known = {
        None: "with one seed each, so seed noise is unknown",
        True: f"beyond seed noise (p = {lead.probability:.2g})",
        False: f"within seed noise (p = {lead.probability:.2g})",
    }
    return f"'{lead.second.label}' is {lead.paired.value:.{DIGITS}f} lower, {known[lead.beyond_seeds]}"


def _title(contest: Contest) -> str:
    shared = tables.shared(contest)
    return f"{tables.section_name(contest)} (with {shared})" if shared else tables.section_name(contest)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _charts(compared: Comparison) -> list[Chart]:
    """Draw one line for each recipe, in the order of the table, one dot for each teacher with its deviation."""
    charts = []
    for standings in [entry for entry in compared.standings.values() if entry.aligned.images]:
        scores = {teacher: standings.spreads(teacher) for teacher in (*standings.aligned.teachers, None)}
        rows = []
        for group in compared.deciding.ordered():
            dots = []
            for colour, (teacher, spreads) in enumerate(scores.items()):
                value = spreads[group.label]
                low, high = value.mean - value.std, value.mean + value.std
                number = colour if teacher else MEAN_COLOUR
                dots.append(Dot(label=teacher or MEAN, value=value.mean, low=low, high=high, colour=number))
            rows.append((group.label, dots))
        svg = dot_chart(rows, x_label="cosine similarity, mean and deviation over seeds", from_zero=False)
        title = f"{standings.aligned.kind.capitalize()} ({len(standings.aligned.images)} photographs)"
        charts.append(Chart(svg=svg, title=title))
    return charts
