"""Scores of one run: cards, verdict, warnings and tables say who wins, who loses, and what is unknown."""

import math

import pytest

from eval.fidelity.predictors import LINEAR_STUDENT, LINEAR_UNTRAINED, MEAN, ROUNDING, STUDENT, UNTRAINED
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, Score
from eval.report.sections.score_targets import RunScores
from eval.report.sections.scores import cards, score_table, section, verdict, warnings

NAN = math.nan
COLUMNS = {"before": UNTRAINED, "mean": MEAN, "linear": LINEAR_UNTRAINED, "student": STUDENT, "trained": LINEAR_STUDENT}


def scored(teacher: str, *, kind: str = HELD_OUT_VIEWS, token_type: str = "patch", **cosines: float) -> list[Score]:
    """Scores of some predictors for one teacher; a smooth-L1 of 1 - cosine."""
    return [
        Score(
            predictor=COLUMNS[name],
            teacher=teacher,
            token_type=token_type,
            group=kind,
            images=2,
            tokens=8,
            value=(cosine, 1 - cosine, cosine),
            low=(NAN,) * 3,
            high=(NAN,) * 3,
        )
        for name, cosine in cosines.items()
    ]


def of(*scores: list[Score]) -> RunScores:
    everything = [score for of_teacher in scores for score in of_teacher]
    return RunScores(name="run", by_kind=everything, by_dataset=[])


def test_a_student_behind_a_baseline_is_warned_of_and_drawn_so() -> None:
    run = of(
        scored("a", before=0.0, linear=0.6, student=0.5),
        scored("b", before=0.1, linear=0.2, student=0.25),
        scored("a", token_type="prefix", before=0.0, linear=0.1, student=0.9),  # no part of the headline
    )
    (card,) = cards(run)
    assert (card.figure, card.css) == ("0.375", "loses")
    assert card.beside == "no better than 0.400 (linear map of untrained student)"
    assert card.what == "patch cosine on held-out views, mean over teachers"
    (warning,) = warnings(run)
    assert "no better than a baseline: its patch cosine, averaged over teachers, is 0.375" in warning
    assert verdict(run)[0].endswith("above every baseline for 1 of 2 teachers (not for a).")
    assert str(section([run])).count("hollow") == 2  # the dot of a, and the legend


def test_a_student_ahead_of_its_baselines_is_not() -> None:
    run = of(scored("a", mean=0.1, linear=NAN, student=0.5))
    (card,) = cards(run)
    assert (card.figure, card.css, card.beside) == ("0.500", "", "best baseline 0.100 (mean token)")
    assert warnings(run) == []
    assert "hollow" not in str(section([run]))


def test_no_number_is_neither_a_win_nor_a_loss() -> None:
    run = of(
        scored("a", linear=0.6, student=NAN),
        scored("b", linear=0.2, student=0.25),
        scored("c", student=0.25),
        scored("b", kind=HELD_OUT_PHOTOGRAPHS, linear=0.1, student=0.3),
    )
    views, photographs = cards(run)
    assert (views.figure, views.css) == ("\N{EM DASH}", "")
    assert photographs.figure == "0.300"
    assert warnings(run) == ["On held-out views the student's predictions for a are not numbers (NaN)."]
    assert verdict(run)[0].endswith("above every baseline for 1 of 3 teachers (unknown for a, c).")


@pytest.mark.parametrize("score", ["cosine", "smooth_l1", "explained_variance"])
def test_ties_are_all_bold_and_what_is_no_better_than_a_baseline_is_not(score: str) -> None:
    run = of(
        scored("a", mean=0.3, linear=0.3001, student=0.3002, trained=0.2),
        scored("b", mean=0.3, linear=0.1, student=0.3, trained=0.4),
    )
    table = score_table([run], score)
    titles = [column.title for column in table.columns]
    at = [titles.index(t) for t in ("Mean token", "Linear map, untrained student", "Student")]
    at.append(titles.index("Linear map, trained student"))
    assert [[row[number].css for number in at] for row in table.rows] == [
        ["best", "best", "best", "loses"],
        ["", "", "loses", "best"],
    ]
    assert ROUNDING not in titles
