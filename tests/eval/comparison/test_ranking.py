"""Ranking of recipes: runs grouped over seeds, seed noise, effects of single changes, in tables and in words."""

import math

import pytest

from eval.comparison.ranking import Comparison
from eval.comparison.seed_noise import Spread, contests, groups_of, seed_probability, spread, varying
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS
from eval.report.page import TableBlock
from eval.report.sections import comparison_tables
from eval.report.sections.comparison import section, sentences
from tests.eval.comparison.test_paired import sums
from train.recipe.config import Recipe, overridden
from train.recipe.named import find


def recipe(**values: object) -> Recipe:
    """The tiny recipe with some values changed, `projector__kind="sp"` for the dotted key."""
    return overridden(find("tiny"), {key.replace("__", "."): value for key, value in values.items()}, subject="test")


RECIPES = {
    "all-tp/seed-0": recipe(),
    "all-tp/seed-1": recipe(seed=1, name="again", log__tensorboard=True),
    "all-sp/seed-0": recipe(projector__kind="sp", name="other"),
    "all-sp/seed-1": recipe(projector__kind="sp", seed=1),
    "people-tp/seed-0": recipe(data__datasets=["people"]),
}


def compared(values: dict[str, list[float]], **options: object) -> Comparison:
    """Runs with two photographs and one teacher."""
    tables = {run: sums({"t": cosines}, kind=HELD_OUT_PHOTOGRAPHS) for run, cosines in values.items()}
    return Comparison(recipes={run: RECIPES[run] for run in values}, tables=tables, labels={}, **options)  # type: ignore[arg-type]


def test_runs_of_one_recipe_are_grouped_over_seeds() -> None:
    groups = groups_of(RECIPES)
    assert [group.label for group in groups] == ["all-tp", "all-sp", "people-tp"]
    assert [group.seeds for group in groups] == [(0, 1), (0, 1), (0,)]
    assert set(varying(groups)) == {"projector.kind", "data.datasets"}
    labels = {"all-tp/seed-0": "TP", "all-tp/seed-1": "full", "all-sp/seed-0": "SP", "people-tp/seed-0": "SP"}
    names = [group.label for group in groups_of(RECIPES, labels)]
    assert names == ["TP = full", "SP (all-sp/seed-0, all-sp/seed-1)", "SP (people-tp/seed-0)"]
    assert [group.label for group in groups_of({"first": recipe(), "second": recipe(seed=5)})] == ["first, second"]


def test_repeated_runs_of_a_seed_are_no_second_seed() -> None:
    (group,) = groups_of({"a": recipe(), "b": recipe(), "c": recipe(seed=1)})
    score = spread(group, {"a": 0.4, "b": 0.6, "c": 0.7})
    assert (score.mean, score.std, score.seeds) == pytest.approx((0.6, 0.2 / math.sqrt(2), 2))


def test_seed_noise_is_a_t_test_with_a_pooled_deviation() -> None:
    tp = Spread(mean=0.51, std=0.02 / math.sqrt(2), seeds=2)
    sp = Spread(mean=0.40, std=0.04 / math.sqrt(2), seeds=2)
    one = Spread(mean=0.42, std=math.nan, seeds=1)
    # Pooled deviation: sqrt((0.0002 + 0.0008) / 2) = 0.02236. Student's t with 2 degrees of freedom has
    # p = 1 - t / sqrt(2 + t^2): t = 0.11 / 0.02236 = 4.919, and 0.09 / (0.02236 sqrt(1.5)) = 3.286.
    everyone = [tp, sp, one]
    assert seed_probability(tp, sp, everyone) == pytest.approx(1 - 4.919 / math.sqrt(2 + 4.919**2), rel=1e-3)
    assert seed_probability(one, tp, everyone) == pytest.approx(1 - 3.286 / math.sqrt(2 + 3.286**2), rel=1e-3)
    assert math.isnan(seed_probability(one, one, [one]))
    still = Spread(mean=0.5, std=0.0, seeds=2)
    assert (seed_probability(still, still, [still]), seed_probability(still, tp, [still])) == (1.0, 0.0)


def test_contests_are_between_recipes_that_differ_in_one_section() -> None:
    other = {"projector__kind": "sp", "projector__hidden_dim": 8}  # the kind is enough to tell two contests apart
    recipes = {**RECIPES, "people-sp": recipe(data__datasets=["people"], **other)}
    recipes |= {f"all-sp/seed-{seed}": recipe(seed=seed, **other) for seed in (0, 1)}
    recipes["lr"] = recipe(optim__lr=0.5, projector__kind="lp", projector__which_blocks=[0, 1])
    sections = [(entry.section, [group.label for group in entry.groups]) for entry in contests(groups_of(recipes))]
    assert sections == [
        ("projector", ["all-tp", "all-sp"]),
        ("projector", ["people-tp", "people-sp"]),
        ("data", ["all-tp", "people-tp"]),
        ("data", ["all-sp", "people-sp"]),
    ]
    shared = [dict(entry.shared) for entry in contests(groups_of(recipes))]
    people = {"data.datasets": "['people']"}
    assert shared == [{"data.datasets": "[]"}, people, {"projector.kind": "'tp'"}, {"projector.kind": "'sp'"}]


def test_the_verdict_says_who_won_by_how_much_and_beyond_what() -> None:
    values = {
        "all-tp/seed-0": [0.50, 0.52],
        "all-tp/seed-1": [0.51, 0.53],
        "all-sp/seed-0": [0.40, 0.42],
        "all-sp/seed-1": [0.41, 0.43],
        "people-tp/seed-0": [0.51, 0.51],
    }
    comparison = compared(values, baselines=frozenset({"all-sp/seed-0"}))
    verdict = sentences(comparison)
    assert verdict[0].startswith(
        "Best: 'all-tp' with a cosine of 0.5150 \N{PLUS-MINUS SIGN} 0.0071 on held-out photographs"
    )
    assert verdict[1].startswith("Next: 'people-tp' is 0.0050 lower, within seed noise")
    assert verdict[2].startswith("Baseline: 'all-sp' is 0.1000 lower, beyond seed noise (p = 0.005)")
    assert verdict[3].startswith("Projector: 'all-tp' leads; 'all-sp' is 0.1000 lower, beyond")
    assert verdict[4].startswith("Training data: 'all-tp' leads; 'people-tp' is 0.0050 lower")
    table = comparison_tables.recipes(comparison.deciding, comparison.reference)
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert list(rows) == ["all-tp", "people-tp", "all-sp"]
    assert rows["all-tp"][1:] == ["2", "0.5150", "+0.1000", "yes", "0.5150"]
    assert rows["all-sp"][3:5] == ["\N{EM DASH}", "the reference"]
    # The interval over photographs: all-tp is 0.1 better on both.
    assert table.rows[0][3].beside == "0.1000 to 0.1000"


def test_one_seed_and_nothing_in_common_are_stated() -> None:
    alone = compared({"all-tp/seed-0": [0.5, 0.5], "all-sp/seed-0": [0.4, 0.4]})
    assert "so seed noise is unknown" in sentences(alone)[1]
    page = section(alone, absent=["lp/seed-0: failed: out of memory"])
    assert "unknown: train some with two seeds" in str(page.blocks)
    assert "out of memory" in str(page.blocks[-1])
    tables = {"all-tp/seed-0": sums({"t": [0.5]}, dataset="x"), "all-sp/seed-0": sums({"t": [0.5]}, dataset="y")}
    apart = Comparison(recipes={run: RECIPES[run] for run in tables}, tables=tables, labels={})
    assert "no held-out rows in common" in sentences(apart)[0]
    titles = [block.title for block in section(apart).blocks if isinstance(block, TableBlock)]
    assert titles == ["What differs in the recipes", "Every run"]
