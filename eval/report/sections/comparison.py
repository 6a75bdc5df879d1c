"""Comparison section: the best recipe, its lead, and whether the lead is more than noise."""

import math
from collections.abc import Sequence

from eval.comparison.ranking import DIGITS, Comparison, Lead, Standings
from eval.comparison.seed_noise import Contest, Group, varying
from eval.report.charts import Dot, dot_chart
from eval.report.page import Block, Chart, ChartsBlock, Item, ListBlock, Section, TableBlock, TextBlock
from eval.report.sections import comparison_tables as tables
from eval.report.sections.comparison_tables import MEAN
from train.run.headline import DEFINITION, PATCH_COSINE

NAN = math.nan
BEST_BASELINE = "best baseline, mean over teachers"
MEAN_COLOUR = 7
BASELINE_COLOUR = 4
INTRO = (
    f"{DEFINITION} On rows that are held out for all runs here, as the same kind. Runs whose recipes differ in their "
    "seed alone are one row. The best value of a column is bold; a red value with a triangle, and a hollow dot, are no "
    "better than a baseline of the same runs (before training, mean token, or linear map of the untrained student).",
    "Two kinds of noise are distinguished. Seed noise: whether other "
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
                title=f"Recipes, {PATCH_COSINE} on {standings.aligned.kind}",
            ),
            ChartsBlock(charts=_charts(compared)),
            TableBlock(table=tables.winners(standings), title="Winner for each teacher"),
        ]
    if comparable and compared.contests:
        blocks.append(TableBlock(table=tables.contests(compared), title="Effect of a single change"))
    for other in [entry for entry in compared.standings.values() if entry is not standings and entry.aligned.images]:
        title = f"Recipes, {PATCH_COSINE} on {other.aligned.kind}"
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
    best = standings.first()
    verdict = headline(compared)
    if not best:
        return verdict
    next_best = [group for group in standings.ordered() if group not in best][:1]
    if compared.baselines and compared.reference not in (*best, *next_best):
        verdict.append(f"Baseline: {_phrase(standings.lead(best[0], compared.reference))}.")
    for contest in compared.contests:
        leading = standings.first(among=contest.groups)
        if not leading:
            continue
        leads = [lead for lead in standings.leads(contest.groups) if lead.second not in leading]
        text = "; ".join([f"{_names(leading)} {'lead' if len(leading) > 1 else 'leads'}", *map(_phrase, leads)])
        verdict.append(f"{_title(contest)}: {text}.")
    return verdict


def headline(compared: Comparison) -> list[str]:
    """Write the first sentences of the verdict: the best recipe, its best baseline, and its lead over the next."""
    standings = compared.deciding
    best = standings.first()
    if not standings.aligned.images:
        return ["These runs have no held-out rows in common, so they cannot be compared."]
    if not best:
        return ["No run here has a score that is a number (their predictions are NaN), so they cannot be compared."]
    mean = standings.spreads()[best[0].label]
    deviation = f" \N{PLUS-MINUS SIGN} {mean.std:.{DIGITS}f}" if mean.seeds > 1 and len(best) == 1 else ""
    teachers, images = len(standings.aligned.teachers), len(standings.aligned.images)
    lead = "Only recipe" if len(compared.groups) == 1 else "Best" if len(best) == 1 else "Best, in a tie"
    seeds = f" and {_count(mean.seeds, 'seed')}" if len(best) == 1 else ""
    sentences = [
        f"{lead}: {_names(best)} with a cosine of {mean.mean:.{DIGITS}f}{deviation} on {standings.aligned.kind} "
        f"({_count(images, 'photograph')}; {PATCH_COSINE}, mean over {_count(teachers, 'teacher')}{seeds})."
    ]
    sentences += [_against_baseline(standings, group) for group in best if standings.best_baseline(group)]
    others = [group for group in standings.ordered() if group not in best]
    if others:
        sentences.append(f"Next: {_phrase(standings.lead(best[0], others[0]))}.")
    return sentences


def warnings(compared: Comparison) -> list[str]:
    """Write a warning if a baseline is at least as good as the best recipe."""
    standings = compared.deciding
    if not any(standings.beats_baselines(group) is False for group in standings.first()):
        return []
    judged = [standings.beats_baselines(group) for group in standings.groups]
    count = sum(value is True for value in judged)
    return [
        f"A baseline is at least as good as the best recipe on {standings.aligned.kind}. {_count(count, 'recipe')} of "
        f"{len(judged)} {'is' if count == 1 else 'are'} better than the best baseline, so the ranking says little "
        "about what the students have learnt."
    ]


def _against_baseline(standings: Standings, group: Group) -> str:
    """Say how a recipe compares with the best baseline of its runs, and for which teachers a baseline is ahead."""
    found = standings.best_baseline(group)
    if found is None:
        raise ValueError(f"'{group.label}' has no baseline")
    name, value = found
    own = standings.spreads()[group.label].mean
    behind = [teacher for teacher in standings.aligned.teachers if standings.beats_baselines(group, teacher) is False]
    if standings.beats_baselines(group) is False:
        return (
            f"Warning: '{group.label}' is no better than a baseline, the {name}, which has {value:.{DIGITS}f} "
            f"({value - own:z.{DIGITS}f} more)."
        )
    exception = f", but a baseline is at least as good for {', '.join(behind)}" if behind else ""
    return f"Its best baseline, the {name}, has {value:.{DIGITS}f} ({own - value:.{DIGITS}f} less){exception}."


def _names(groups: Sequence[Group]) -> str:
    return " and ".join(f"'{group.label}'" for group in groups)


def _phrase(lead: Lead) -> str:
    if math.isnan(lead.paired.value):
        return f"'{lead.second.label}' has no score that is a number"
    known = {
        None: "with one seed each, so seed noise is unknown",
        True: f"beyond seed noise (p = {lead.probability:.2g})",
        False: f"within seed noise (p = {lead.probability:.2g})",
    }
    return f"'{lead.second.label}' is {lead.paired.value:z.{DIGITS}f} lower, {known[lead.beyond_seeds]}"


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
                hollow = standings.beats_baselines(group, teacher) is False
                label = teacher or MEAN
                dots.append(Dot(label=label, value=value.mean, low=low, high=high, colour=number, hollow=hollow))
            best = standings.best_baseline(group)
            if best is not None:
                dots.append(Dot(label=BEST_BASELINE, value=best[1], low=NAN, high=NAN, colour=BASELINE_COLOUR))
            rows.append((group.label, dots))
        svg = dot_chart(rows, x_label=f"{PATCH_COSINE}, mean and deviation over seeds", from_zero=False)
        title = f"{standings.aligned.kind.capitalize()} ({len(standings.aligned.images)} photographs)"
        charts.append(Chart(svg=svg, title=title))
    return charts
