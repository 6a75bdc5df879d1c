"""The page of a sweep: the best recipe, the same photographs for all runs, failed runs."""

from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.analyses.pca import PHOTOGRAPH, choose
from eval.report.page import SheetsBlock
from eval.report.sections.pictures import RunPictures, section
from eval.runs.open_run import open_run
from eval.runs.select import select
from store import errors
from store.cache.cache import Cache
from tests.eval.builders import train_run
from tests.eval.report.test_report import Links, in_browser
from train.recipe.named import find
from train.sweep import SweepFile, store_sweep

ROWS = {"tp": {}, "short": {"schedule": {"steps": 2}}, "people": {"data": {"batch": 16, "datasets": ["people"]}}}
SWEEP = SweepFile.model_validate(
    {
        "title": "Which one",
        "base": "tiny",
        "baseline": "short",
        "seeds": [0, 1],
        "row": [{"name": "tp", "label": "whole, TP"}, {"name": "short"}, {"name": "people"}, {"name": "lost"}],
    }
)


@pytest.fixture(scope="module")
def sweep(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows with two seeds, but for one that failed, one that is on its way, and a row that was never begun."""
    out = tmp_path_factory.mktemp("sweeps") / "night"
    common = {"targets": {"statistics": "cache"}, "schedule": {"steps": 10}}
    for row, settings in ROWS.items():
        for seed in (0, 1) if row != "people" else (0,):
            train_run(cache, out / row / f"seed-{seed}", **{**common, **settings, "seed": seed})
    store_sweep(SWEEP, out)
    (out / "people" / "seed-1.problem.txt").write_text("Traceback\nRuntimeError: out of memory\n")
    (out / "lost" / "seed-0" / "checkpoints" / "step-00000002").mkdir(parents=True)
    (out / "lost" / "seed-0" / "recipe.json").write_text(find("tiny").to_json())
    return out


@pytest.fixture(scope="module")
def page(sweep: Path, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = str(sweep / "tp" / "seed-0")
    out = tmp_path_factory.mktemp("page")
    for command in (["variance"], ["correlation", "--probe-steps", "3", "--probe-rows", "4"], ["attention"]):
        assert main([command[0], run, "--out", str(out / "figures"), *command[1:]]) == 0
    assert main(["report", str(sweep), "--out", str(out)]) == 0
    return out / "index.html"


def test_a_sweep_stands_for_its_finished_runs(sweep: Path, tmp_path: Path) -> None:
    selected = select([sweep])
    runs = ["tp/seed-0", "tp/seed-1", "short/seed-0", "short/seed-1", "people/seed-0"]
    assert [str(run.relative_to(sweep)) for run in selected.runs] == runs
    assert selected.labels[sweep / "tp" / "seed-1"] == "whole, TP"
    assert selected.baselines == {sweep / "short" / "seed-0", sweep / "short" / "seed-1"}
    assert selected.titles == ("Which one",)
    assert selected.absent == (
        "people/seed-1: failed: RuntimeError: out of memory",
        "lost/seed-0: not finished: 2 of 12 steps saved",
        "lost/seed-1: not begun",
    )
    (sweep / "sweep.json").rename(tmp_path / "set-aside")
    try:
        bare = select([sweep])  # a sweep of another hand: whatever runs lie below
    finally:
        (tmp_path / "set-aside").rename(sweep / "sweep.json")
    assert set(bare.runs) == set(selected.runs)
    assert bare.absent == (selected.absent[1], selected.absent[0])
    with pytest.raises(errors.InvalidInput, match="given twice"):
        select([sweep, sweep / "tp" / "seed-0"])
    with pytest.raises(errors.InvalidInput, match="holds no finished one; seed-0: not finished"):
        select([sweep / "lost"])


def test_the_page_says_who_won_and_what_is_missing(page: Path) -> None:
    html = page.read_text()
    text = Links(html).text
    assert "Distillation report: Which one" in text
    assert "Best: 'whole, TP' with a cosine of" in text
    assert "Against short" in text
    recipes = text[text.index("Recipes, patch cosine on held-out photographs") : text.index("Winner for each teacher")]
    assert recipes.index("whole, TP") < recipes.index("short", recipes.index("Beyond seed noise"))
    assert "Training data: 'whole, TP' leads" in text
    # Ten steps of training are no match for a linear map, and the page says so before anything else.
    warning = text.index("A baseline is at least as good as the best recipe")
    assert text.index("Warning: 'whole, TP' is no better than a baseline, the linear map") < warning
    assert warning < text.index("What the networks see") < text.index("Which recipe won")
    assert "Not all runs are here: people/seed-1: failed: RuntimeError: out of memory" in text
    assert "hollow: no better than a baseline" in text
    assert 'class="n loses"' in html
    assert "out of memory" in text
    for anchor in ("comparison", "pictures", "variance", "correlation", "attention"):
        assert f'<section id="{anchor}">' in html
    not_computed = text[text.index("What was not computed") :]
    assert "Attention maps (for 4 of 5 runs)" in not_computed
    assert "Linear segmentation" in not_computed
    assert "held-out photographs (1 of 5 runs)" in text  # what people's photographs of scenes are


@pytest.mark.parametrize("width", [600, 1280])
def test_the_sweeps_page_works_in_a_browser(page: Path, browser: str, tmp_path: Path, width: int) -> None:
    seen = in_browser(page, browser, tmp_path, table="Run", column="Seed", width=width)
    assert seen["errors"] == []
    assert all(seen["images"])
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["wide"] <= 0
    assert seen["broken"] == 0
    assert seen["scrolling"] > 0 or width > 600
    assert seen["sections"]


def test_the_terminal_names_the_winner_and_refuses_an_unknown_baseline(
    page: Path, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(sweep), "--out", str(tmp_path), "--baseline", "whole, TP"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "difference: to 'whole, TP'" in shown
    assert "Not here: lost/seed-1: not begun" in shown
    assert main(["report", str(sweep), "--out", str(tmp_path / "no"), "--baseline", "shrot"]) == 2
    assert "no run or row of that name (did you mean 'short'?)" in capsys.readouterr().err


def test_runs_on_other_data_are_shown_on_the_same_photographs(sweep: Path) -> None:
    whole, part = (open_run(sweep / row / "seed-0", device="cpu").mixture for row in ("tp", "people"))
    chosen, other = (choose(mixture, count=6) for mixture in (whole, part))
    assert chosen[0].rows.row.tolist() == other[0].rows.row.tolist()
    assert chosen[1] == other[1]


def test_students_stand_below_their_teachers_and_other_photographs_apart() -> None:
    def pictures_of(name: str, *teachers: str, shown: int = 0) -> RunPictures:
        models = [
            PHOTOGRAPH,
            *(f"teacher {t}" for t in teachers),
            "student encoder",
            *(f"projection to {t}" for t in teachers),
        ]
        images = {model: [np.full((2, 2, 3), place, np.uint8)] for place, model in enumerate(models)}
        cosines = {f"projection to {t}": [0.25] for t in teachers}
        return RunPictures(name=name, shown=[shown], captions=["cat"], images=images, cosines=cosines)

    pictures = section([pictures_of("one", "a", "b"), pictures_of("two", "b"), pictures_of("three", "a", shown=1)])
    first, second = (block for block in pictures.blocks if isinstance(block, SheetsBlock))
    (sheet,) = first.sheets
    assert (sheet.title, sheet.labels) == ("cat", ["teachers", "one", "two"])
    assert [column.title for column in sheet.columns] == ["Photograph", "a", "b"]
    assert [picture.alt.partition(":")[0] for picture in sheet.rows[1]] == [
        "one, student encoder",
        "one, projection to a",
        "one, projection to b",
    ]
    assert [picture.below for picture in sheet.rows[2]] == ["", "", "0.250"]
    assert sheet.rows[2][1].uri == ""  # 'two' has no such teacher
    assert second.sheets[0].labels == ["teachers", "three"]
