"""Sweeps: every row is run, nothing stops the rest, a second call goes on, one table compares."""

import csv
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from store.errors import InvalidConfig
from tests.train.builders import build_cache, teacher_info
from train import sweep_table
from train.__main__ import main
from train.run import log
from train.run.interrupt import StopRequest
from train.run.load import build_from_seed
from train.sweep import (
    FINISHED,
    STOPPED,
    EndedRun,
    PlannedRun,
    Row,
    names,
    plan,
    store_sweep,
    stored_sweep,
)
from train.sweep_jobs import run_all

SWEEP = """
title = "trial"
base = "tiny"
baseline = "tp"
seeds = [0]
overrides = { "schedule.steps" = 2, "machine.threads" = 1 }
[[row]]
name = "broken"
set = { optim.lr = 1e30 }
[[row]]
name = "tp"
label = "transformer projector"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def test_rows_and_grid_become_resolved_recipes(tmp_path: Path) -> None:
    grid = '[grid]\n"sharing.mode" = ["full", "none"]\n"data.teachers" = [["a", "b"]]\n'
    file = write(tmp_path, SWEEP.replace("seeds = [0]", "seeds = [0, 3]") + grid)
    _, runs = plan(file, tmp_path / "out")
    names = [(run.row.name, run.seed) for run in runs]
    rows = ["broken", "tp", "mode=full,teachers=a+b", "mode=none,teachers=a+b"]
    assert names == [(row, seed) for row in rows for seed in (0, 3)]
    last = runs[-1]
    assert (last.recipe.seed, last.recipe.sharing.mode, last.recipe.data.teachers) == (3, "none", ("a", "b"))
    assert last.recipe.steps == 2
    assert last.directory == tmp_path / "out" / "mode=none,teachers=a+b" / "seed-3"


def test_every_problem_of_a_sweep_is_listed(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"baseline: no row 'tpp' \(did you mean 'tp'\?\)"):
        plan(write(tmp_path, SWEEP.replace('baseline = "tp"', 'baseline = "tpp"')), tmp_path)
    bad = SWEEP.replace("schedule.steps", "schedule.stepss") + 'set = { optim.lr = -1 }\n[[row]]\nname = "x"\n'
    with pytest.raises(InvalidConfig) as caught:
        plan(write(tmp_path, bad), tmp_path)
    message = str(caught.value)
    assert "row 'x': schedule.stepss: unknown key (did you mean 'steps'?)" in message
    assert "row 'tp': optim.lr" in message


def test_a_sweep_stops_on_nothing_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path / "cache")
    command = ["sweep", str(write(tmp_path, SWEEP)), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    output = capsys.readouterr().out
    assert "[1/2] broken, seed 0: failed" in output
    assert "not finite" in output
    assert "[2/2] tp, seed 0: finished" in output
    before = (tmp_path / "out" / "tp" / "seed-0" / "log.jsonl").read_bytes()
    text = SWEEP.replace("set = { optim.lr = 1e30 }", "")
    shutil.rmtree(tmp_path / "out" / "broken")
    (tmp_path / "sweep.toml").write_text(text)
    assert main(command) == 0
    assert (tmp_path / "out" / "tp" / "seed-0" / "log.jsonl").read_bytes() == before
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert "transformer projector" in table
    assert "(+0.0000)" in table  # the same recipe under another name
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert {row["row"] for row in csv.DictReader(file)} == {"broken", "tp"}
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 1000
    assert stored_sweep(tmp_path / "out") == plan(tmp_path / "sweep.toml", tmp_path / "out")[0]


def test_a_stored_sweep_is_read_back_or_refused(tmp_path: Path) -> None:
    assert stored_sweep(tmp_path) is None
    sweep, _ = plan(write(tmp_path, SWEEP + '[grid]\n"sharing.mode" = ["full", "none"]\n'), tmp_path)
    store_sweep(sweep, tmp_path)
    assert stored_sweep(tmp_path) == sweep
    (tmp_path / "sweep.json").write_text('{"base": "tiny", "baseline": "x"')
    with pytest.raises(InvalidConfig, match=r"sweep\.json': 1 problem\. it is not JSON"):
        stored_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"base": "tiny", "rows": []}')
    with pytest.raises(InvalidConfig, match="rows: unknown key"):
        stored_sweep(tmp_path)


def test_rows_that_can_not_run_are_refused_before_any_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path / "cache")
    bad = """
[[row]]
name = "x"
set = { data.datasets = ["nowhere"] }
[[row]]
name = "y"
set = { projector.kind = "lp", projector.which_blocks = [9] }
"""
    file = write(tmp_path, SWEEP + bad)
    assert main(["sweep", str(file), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "row 'x': " in message
    assert "'nowhere' is not in this cache" in message
    assert "row 'y': " in message
    assert "projector: which_blocks [9]: expected block numbers from 0 that end with the last one" in message
    assert "row 'tp'" not in message
    assert not (tmp_path / "out").exists()


def finished(tmp_path: Path, name: str, seed: int, cosine: float) -> EndedRun:
    directory = tmp_path / name / f"seed-{seed}"
    directory.mkdir(parents=True)
    values = {"cosine": cosine, "smooth_l1": 1 - cosine, "loss": 0.5}
    with log.RunLogger(directory, done=0, steps=9, tensorboard=False, quiet=True) as run_logger:
        run_logger.fidelity({"step": 9, "datasets": {"held": {"a": values, "b": {**values, "cosine": cosine + 0.2}}}})
    _, runs = plan(write(tmp_path, SWEEP), tmp_path)
    return EndedRun(
        run=PlannedRun(row=Row(name=name), seed=seed, recipe=runs[0].recipe, directory=directory), status=FINISHED
    )


def test_the_table_gives_differences_to_the_baseline_and_the_spread_of_seeds(tmp_path: Path) -> None:
    ended = [
        finished(tmp_path, "tp", 0, 0.50),
        finished(tmp_path, "tp", 1, 0.60),
        finished(tmp_path, "sp", 0, 0.40),
        finished(tmp_path, "sp", 1, 0.50),
    ]
    stopped = EndedRun(
        run=PlannedRun(row=Row(name="lp"), seed=0, recipe=ended[0].run.recipe, directory=tmp_path), status=STOPPED
    )
    rows = [Row(name="tp"), Row(name="sp", label="simple"), Row(name="lp")]
    everything = [*ended, stopped]
    table = sweep_table.markdown(
        "t", rows=rows, baseline="tp", results=sweep_table.collect(everything), ended=everything
    )
    assert "| tp | 0.5500 ± 0.0707 | 0.7500 ± 0.0707 | 0.6500 ± 0.0707 |" in table
    assert "| simple | 0.4500 ± 0.0707 (-0.1000) | 0.6500 ± 0.0707 (-0.1000) | 0.5500 ± 0.0707 (-0.1000) |" in table
    assert "| lp | - | - | - |" in table
    assert "- lp, seed 0: stopped." in table


def test_nothing_begins_after_a_request_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runs = plan(write(tmp_path, SWEEP), tmp_path / "out")

    enter = StopRequest.__enter__

    def requested(self: StopRequest) -> StopRequest:
        self.requested = True
        return enter(self)

    monkeypatch.setattr(StopRequest, "__enter__", requested)
    assert [ended.status for ended in run_all(runs, caches=["c"])] == [STOPPED, STOPPED]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", names())
def test_shipped_sweeps_resolve(name: str, tmp_path: Path) -> None:
    sweep, runs = plan(name, tmp_path)
    assert sweep.baseline in [row.name for row in sweep.rows]
    assert len(runs) == len(sweep.rows) * len(sweep.seeds)
    assert {run.recipe.targets.statistics for run in runs} == {"cache"}
    teacher = asdict(teacher_info(channels=8, prefix_tokens=1))
    with torch.device("meta"):
        for run in runs:
            build_from_seed(run.recipe, {"image_size": 56, "teachers": {"a": teacher}})
