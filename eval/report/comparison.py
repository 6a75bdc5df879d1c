"""The part of the page that says which of several runs won, by how much, and whether that is more than noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from eval.compare import (
    Difference,
    SeedGroup,
    beyond_seed_noise,
    difference,
    mean_over_teachers,
    seed_groups,
    varying,
)
from eval.report.blocks import Block, Section, TableBlock, TextBlock
from eval.report.tables import MISSING, Cell, Column, Table, interval_cell, number_cell, text_cell
from eval.summary import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS
from train.recipe import Recipe

KINDS = (HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS)
INTRO = (
    "Cosine similarity on patch tokens, averaged over teachers. A difference is taken on the same photographs (paired "
    "bootstrap), so two runs can be told apart although their own intervals overlap. It tells what other photographs "
    "would change; what another seed would change is told apart from it below.",
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run with its recipe and its per-image sums."""

    recipe: Recipe
    sums: pa.Table


def section(runs: Mapping[str, Compared]) -> Section:
    """Ranking, what differs between the recipes, and seeds."""
    kind = ranking_kind(runs)
    blocks: list[Block] = [
        TextBlock(text=f"{best_run(runs, kind)} is best on {kind}."),
        TableBlock(table=ranking_table(runs, kind), title="Ranking"),
    ]
    differing = varying({name: run.recipe for name, run in runs.items()})
    differing.pop("name", None)
    if differing:
        blocks.append(TableBlock(table=_recipes_table(list(runs), differing), title="What differs in the recipes"))
    blocks += _seed_blocks(runs, kind)
    return Section(anchor="comparison", short="Comparison", title="Which run is best", intro=INTRO, blocks=blocks)


def ranking_kind(runs: Mapping[str, Compared]) -> str:
    """What runs are ranked on: photographs never seen if every run has them, else held-out views."""
    values = [mean_over_teachers(run.sums, kind=HELD_OUT_PHOTOGRAPHS) for run in runs.values()]
    return HELD_OUT_PHOTOGRAPHS if all(math.isfinite(value) for value in values) else HELD_OUT_VIEWS


def best_run(runs: Mapping[str, Compared], kind: str) -> str:
    """The run with the highest mean cosine."""
    values = {name: mean_over_teachers(run.sums, kind=kind) for name, run in runs.items()}
    return max(values, key=lambda name: values[name] if math.isfinite(values[name]) else -math.inf)


def ranking_table(runs: Mapping[str, Compared], kind: str) -> Table:
    """Every run, best first, with its difference to the best."""
    best = best_run(runs, kind)
    columns = [Column(title="Run")]
    for shown in KINDS:
        columns += [
            Column(title=f"Cosine, {shown}", numeric=True),
            Column(title="Less than the best" if shown == kind else f"Against {best}", numeric=True),
        ]
    columns.append(Column(title="Told apart", hint=f"on {kind}: the interval of the difference leaves out zero"))
    order = sorted(runs, key=lambda name: -_or_low(mean_over_teachers(runs[name].sums, kind=kind)))
    rows = []
    for name in order:
        row = [text_cell(name, css="best" if name == best else "")]
        for shown in KINDS:
            row.append(number_cell(mean_over_teachers(runs[name].sums, kind=shown)))
            row.append(_difference_cell(name, best, difference(runs[name].sums, runs[best].sums, kind=shown)))
        row.append(_told_apart(name, best, difference(runs[name].sums, runs[best].sums, kind=kind)))
        rows.append(row)
    return Table(columns=columns, rows=rows)


def _difference_cell(name: str, best: str, found: Difference) -> Cell:
    if name == best:
        return text_cell(MISSING)
    css = "" if not found.clear else "up" if found.value > 0 else "down"
    return interval_cell(found.value, found.low, found.high, sign=True, css=css)


def _told_apart(name: str, best: str, found: Difference) -> Cell:
    if name == best:
        return text_cell("best")
    if not math.isfinite(found.low):
        return text_cell("too few photographs")
    return text_cell("yes" if found.clear else "no", beside=f"{found.images} photographs")


def _recipes_table(names: Sequence[str], differing: Mapping[str, Mapping[str, object]]) -> Table:
    columns = [Column(title="Run"), *(Column(title=key) for key in differing)]
    return Table(columns=columns, rows=[[text_cell(n), *(text_cell(v[n]) for v in differing.values())] for n in names])


def _seed_blocks(runs: Mapping[str, Compared], kind: str) -> list[Block]:
    values = {name: mean_over_teachers(run.sums, kind=kind) for name, run in runs.items()}
    groups = seed_groups({name: run.recipe for name, run in runs.items()}, values)
    if all(len(group.runs) == 1 for group in groups):
        text = "Every recipe here was trained with one seed, so how much a seed changes is unknown: train some twice."
        return [TextBlock(text=text)]
    return [TableBlock(table=_seeds_table(groups, kind), title=f"Recipes over their seeds, cosine on {kind}")]


def _seeds_table(groups: Sequence[SeedGroup], kind: str) -> Table:
    columns = [
        Column(title="Recipe (its runs)"),
        Column(title="Seeds", numeric=True),
        Column(title="Mean", numeric=True),
        Column(title="Deviation between seeds", numeric=True),
        Column(title="Less than the best", numeric=True),
        Column(title="Beyond seed noise", hint="t-test at the 5 % level, deviation pooled over all recipes"),
    ]
    best = groups[0]
    rows = []
    for group in groups:
        beyond = beyond_seed_noise(group, best, groups)
        rows.append(
            [
                text_cell(", ".join(group.runs)),
                number_cell(len(group.runs), digits=0),
                number_cell(group.mean),
                number_cell(group.std, digits=4),
                number_cell(group.mean - best.mean if group is not best else None),
                text_cell("best" if group is best else "yes" if beyond else "no"),
            ]
        )
    return Table(columns=columns, rows=rows)


def _or_low(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
