"""Winners against baselines: a baseline that is ahead is named, ties and runs without a number are said so."""

import math

import pyarrow as pa
import pytest

from eval.comparison.baselines import baseline_scores, beats_baselines, best_baseline
from eval.comparison.paired import align
from eval.comparison.ranking import Comparison
from eval.fidelity.predictors import LINEAR_UNTRAINED, MEAN, STUDENT, UNTRAINED
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, IMAGE_SUMS
from eval.report.sections import comparison_tables
from eval.report.sections.comparison import headline, section, sentences, warnings
from tests.eval.comparison.test_paired import sums
from tests.eval.comparison.test_ranking import RECIPES

NAN = math.nan


def run_sums(student: dict[str, list[float]], **baselines: dict[str, list[float]]) -> pa.Table:
    """Per-image sums of a student and of baselines: teacher -> cosine of one token of each photograph."""
    names = {"linear": LINEAR_UNTRAINED, "untrained": UNTRAINED, "mean": MEAN}
    tables = [sums(student, kind=HELD_OUT_PHOTOGRAPHS)]
    for name, cosines in baselines.items():
        table = sums(cosines, kind=HELD_OUT_PHOTOGRAPHS)
        column = IMAGE_SUMS.get_field_index("predictor")
        tables.append(table.set_column(column, "predictor", pa.array([names[name]] * len(table))))
    return pa.concat_tables(tables)


def compared(tables: dict[str, pa.Table]) -> Comparison:
    return Comparison(recipes={run: RECIPES[run] for run in tables}, tables=tables, labels={})


def styles(comparison: Comparison) -> dict[str, list[str]]:
    """Styles of the scores in the table of recipes: recipe -> mean over teachers, then each teacher."""
    table = comparison_tables.recipes(comparison.deciding, comparison.reference)
    titles = [column.title for column in table.columns]
    shown = [2, *(titles.index(teacher) for teacher in comparison.deciding.aligned.teachers)]
    return {row[0].text: [row[number].css for number in shown] for row in table.rows}


def test_a_baseline_that_beats_the_winner_is_in_the_headline() -> None:
    tp = run_sums({"t": [0.30, 0.32]}, linear={"t": [0.40, 0.44]}, mean={"t": [0.1, 0.1]})
    sp = run_sums({"t": [0.20, 0.22]}, linear={"t": [0.40, 0.44]}, mean={"t": [0.1, 0.1]})
    comparison = compared({"all-tp/seed-0": tp, "all-sp/seed-0": sp})
    assert headline(comparison)[1] == (
        "Warning: 'all-tp' is no better than a baseline, the linear map of untrained student, which has 0.4200 "
        "(0.1100 more)."
    )
    (warning,) = warnings(comparison)
    assert "A baseline is at least as good as the best recipe on held-out photographs. 0 recipes of 2" in warning
    assert styles(comparison) == {"all-tp": ["loses", "loses"], "all-sp": ["loses", "loses"]}
    winners = comparison_tables.winners(comparison.deciding)
    assert [cell.css for cell in winners.rows[0][1:3]] == ["", "loses"]
    assert winners.rows[0][3].text == "0.4200"
    assert str(section(comparison)).count("point c0 hollow") == 2


def test_a_winner_above_its_baselines_is_drawn_as_one() -> None:
    tp = run_sums({"s": [0.5, 0.5], "t": [0.3, 0.3]}, linear={"s": [0.1, 0.1], "t": [0.35, 0.35]})
    sp = run_sums({"s": [0.1, 0.1], "t": [0.2, 0.2]}, linear={"s": [0.15, 0.15], "t": [0.1, 0.1]})
    comparison = compared({"all-tp/seed-0": tp, "all-sp/seed-0": sp})
    assert headline(comparison)[1] == (
        "Its best baseline, the linear map of untrained student, has 0.2250 (0.1750 less), but a baseline is at least "
        "as good for t."
    )
    assert warnings(comparison) == []
    assert styles(comparison) == {"all-tp": ["best", "best", "loses"], "all-sp": ["", "loses", ""]}
    assert headline(compared({"all-tp/seed-0": tp}))[0].startswith("Only recipe: 'all-tp' with a cosine of 0.4000")


def test_equal_is_no_better_and_equal_recipes_are_tied() -> None:
    table = run_sums({"t": [0.3, 0.3]}, linear={"t": [0.3, 0.3]})
    comparison = compared({"all-tp/seed-0": table, "all-sp/seed-0": table, "people-tp/seed-0": run_sums({"t": [0, 0]})})
    lead = headline(comparison)
    assert lead[0].startswith("Best, in a tie: 'all-tp' and 'all-sp' with a cosine of 0.3000")
    assert "Warning: 'all-sp' is no better than a baseline" in lead[2]
    assert lead[3].startswith("Next: 'people-tp' is 0.3000 lower")
    assert warnings(comparison)
    assert "Projector: 'all-tp' and 'all-sp' lead." in sentences(comparison)
    tied = compared({run: run_sums({"t": [0.3, 0.3]}) for run in ("all-tp/seed-0", "all-sp/seed-0")})
    assert styles(tied) == {"all-tp": ["best", "best"], "all-sp": ["best", "best"]}
    first = comparison_tables.winners(tied.deciding).rows[0]
    assert (first[1].text, first[1].css, first[4].text) == ("all-tp = all-sp", "", "0.0000")


def test_runs_without_a_number_come_last_and_do_not_hide_the_noise_of_others() -> None:
    values = {"all-tp/seed-0": 0.5, "all-tp/seed-1": 0.52, "all-sp/seed-0": 0.4, "all-sp/seed-1": NAN}
    comparison = compared({run: run_sums({"t": [value] * 2}) for run, value in values.items()})
    assert "Next: 'all-sp' has no score that is a number." in sentences(comparison)
    assert sentences(comparison)[-1] == "Projector: 'all-tp' leads; 'all-sp' has no score that is a number."
    last = comparison_tables.recipes(comparison.deciding, comparison.reference).rows[-1]
    assert [cell.text for cell in last[:5]] == ["all-sp", "2", "\N{EM DASH}", "\N{EM DASH}", "\N{EM DASH}"]
    assert [row[0].text for row in comparison_tables.runs(comparison).rows][-1] == "all-sp/seed-1"
    nothing = compared({run: run_sums({"t": [NAN, NAN]}) for run in ("all-tp/seed-0", "all-sp/seed-0")})
    assert "No run here has a score that is a number" in sentences(nothing)[0]
    assert "nothing to draw" in str(section(nothing))


def test_a_lead_weighs_seeds_as_the_ranking_does() -> None:
    """Two runs of one seed and one of another: as means over runs the second recipe would be ahead."""
    values = {"a": 0.1, "b": 0.1, "c": 0.9, "d": 0.4}
    recipes = {name: RECIPES["all-tp/seed-0"] for name in "ab"} | {
        "c": RECIPES["all-tp/seed-1"],
        "d": RECIPES["all-sp/seed-0"],
    }
    tables = {run: run_sums({"t": [value] * 2}) for run, value in values.items()}
    comparison = Comparison(recipes=recipes, tables=tables, labels={})
    first, second = comparison.deciding.ordered()
    assert first.runs == ("a", "b", "c")
    assert comparison.deciding.lead(first, second).paired.value == pytest.approx(0.1)


def test_a_baseline_on_other_tokens_is_not_compared() -> None:
    table = run_sums({"s": [0.3, 0.3], "t": [0.3, 0.3]}, linear={"s": [0.5], "t": [0.5, 0.5]}, mean={"t": [0.1, 0.1]})
    aligned = align({"run": table}, kind=HELD_OUT_PHOTOGRAPHS)
    assert baseline_scores(table, aligned, run="run") == {UNTRAINED: {}, MEAN: {"t": 0.1}, LINEAR_UNTRAINED: {"t": 0.5}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({STUDENT: 0.5, MEAN: 0.4, UNTRAINED: NAN}, True),
        ({STUDENT: 0.5, MEAN: 0.5}, False),
        ({STUDENT: NAN, MEAN: 0.5}, None),
        ({STUDENT: 0.5, MEAN: NAN}, None),
        ({STUDENT: 0.5}, None),
    ],
)
def test_what_is_unknown_is_neither_better_nor_worse(values: dict[str, float], expected: bool | None) -> None:
    assert beats_baselines(values) is expected
    assert best_baseline({}) is None
    assert beats_baselines({STUDENT: 0.4, MEAN: 0.5}, score="smooth_l1")
