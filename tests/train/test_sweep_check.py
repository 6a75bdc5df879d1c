"""Finished sweeps stay as they are, whatever the cache gets; what is refused is refused before anything is written."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

import train.sweep_jobs
from eval.runs.select import select
from tests.train.builders import DATASETS, build_cache
from tests.train.stories import weights
from train.__main__ import main
from train.run import directory
from train.sweep import PlannedRun, names, plan, problem_file
from train.sweep_jobs import run_all

SWEEP = """
title = "trial"
base = "tiny"
baseline = "tp"
seeds = [0]
overrides = { "schedule.steps" = 2, "machine.threads" = 1 }
[[row]]
name = "tp"
[[row]]
name = "sp"
set = { projector.kind = "sp" }
"""
MORE = {**DATASETS, "cats": ("people", "train", 6), "cats-held": ("people", "val", 3)}


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def sweep(folder: Path, *options: str, cache: str = "cache", text: str = SWEEP) -> int:
    file = folder / "sweep.toml"
    file.write_text(text)
    return main(["sweep", str(file), "--cache", str(folder / cache), "--out", str(folder / "out"), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and a finished sweep on it, two runs at once."""
    folder = tmp_path_factory.mktemp("sweep")
    build_cache(folder / "cache")
    assert sweep(folder, "--jobs", "2") == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_more_data_or_no_cache_changes_nothing_for_a_finished_sweep(copy: Path) -> None:
    before = content(copy / "out")
    build_cache(copy / "cache", datasets=MORE)
    assert sweep(copy) == 0
    assert content(copy / "out") == before
    shutil.rmtree(copy / "cache")
    assert sweep(copy) == 0
    assert content(copy / "out") == before
    assert [run.parent.name for run in select([copy / "out"]).runs] == ["tp", "sp"]


def test_a_seed_that_begins_later_trains_on_the_data_of_its_row(copy: Path) -> None:
    build_cache(copy / "cache", datasets=MORE)
    more = SWEEP.replace("seeds = [0]", "seeds = [0, 1]")
    (copy / "out" / "tp" / "seed-0" / "rows.npz").touch()
    shutil.rmtree(copy / "out" / "sp" / "seed-0")  # the row's own record is left
    (copy / "out" / "comparison.csv").unlink()
    assert sweep(copy, text=more) == 0
    for row in ("tp", "sp"):
        for seed in (0, 1):
            (cache,) = directory.read_description(copy / "out" / row / f"seed-{seed}")["caches"]
            assert sorted(cache["datasets"]) == ["faces", "held", "rooms"]


def test_a_problem_of_before_does_not_hide_a_finished_run(copy: Path) -> None:
    """Left beside finished runs by versions that tried to resume them on a cache with more data."""
    problem = problem_file(copy / "out" / "tp" / "seed-0")
    problem.write_text("run cannot be resumed\n")
    assert select([copy / "out"]).absent == ()
    assert sweep(copy) == 0
    assert not problem.exists()


def test_changed_data_another_cache_and_another_sweep_are_refused_and_nothing_is_written(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(copy / "out")
    build_cache(copy / "other", seed=1)
    assert sweep(copy, cache="other") == 2
    assert "error: another cache: uuid" in capsys.readouterr().err
    assert sweep(copy, text=SWEEP.replace('"sp"\nset', '"new"\nset').replace("[0]", "[0, 1]")) == 2
    message = capsys.readouterr().err
    assert "holds the sweep 'trial' with finished runs that this one does not have: sp/seed-0" in message
    assert sweep(copy, text=SWEEP.replace('"schedule.steps" = 2', '"schedule.steps" = 3')) == 2
    assert "recipe: schedule.steps: stored 2, asked 3" in capsys.readouterr().err
    build_cache(copy / "failed", failed={("faces", "beta"): [1]})
    key = Path("features.zarr", "faces", "beta")
    shutil.rmtree(copy / "cache" / key)
    shutil.copytree(copy / "failed" / key, copy / "cache" / key)
    assert sweep(copy) == 2
    assert "'faces': beta of row 1: stored ok, now failed" in capsys.readouterr().err
    assert content(copy / "out") == before


def test_a_comparison_never_loses_a_result(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is trained again from the beginning and fails: the table stays as it was."""
    table = (copy / "out" / "comparison.md").read_bytes()
    shutil.rmtree(copy / "out" / "sp" / "seed-0")
    (copy / "out" / "sp" / "seed-0").write_text("in the way")
    assert sweep(copy) == 1
    assert "stays as it was: it has results of runs that have none now (sp, seed 0)" in capsys.readouterr().out
    assert (copy / "out" / "comparison.md").read_bytes() == table


def test_runs_at_once_train_as_one_after_another(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "cache", tmp_path / "cache")
    assert sweep(tmp_path) == 0
    for row in ("tp", "sp"):
        one, other = (weights(folder / "out" / row / "seed-0") for folder in (finished, tmp_path))
        assert all((one[name] == other[name]).all() for name in one | other)


def test_as_many_runs_as_asked_are_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs that each end after the other has begun."""
    (tmp_path / "sweep.toml").write_text(SWEEP)
    _, runs = plan(tmp_path / "sweep.toml", tmp_path / "out")
    ends: list[Any] = []

    class Process:
        exitcode = 0

        def join(self) -> None: ...

    def start(run: PlannedRun, caches: object, *, slot: int, jobs: int) -> Any:
        messages, theirs = multiprocessing.Pipe(duplex=False)
        for step in (1, 2):
            theirs.send(("step", {"step": step, "loss": 0.25}))
        ends.append(theirs)
        if len(ends) == 2:
            for end in ends:
                end.close()
        return train.sweep_jobs._Job(run=run, slot=slot, process=Process(), messages=messages, step=0)

    monkeypatch.setattr(train.sweep_jobs, "_start", start)
    assert {ended.status for ended in run_all(runs, caches=["c"], jobs=2)} == {"finished"}
    bar = capsys.readouterr().err
    assert "sweep, 2 of 2 runs: 100%" in bar
    assert "tp, seed 0: 2/2, loss 0.2500" in bar or "sp, seed 0: 2/2, loss 0.2500" in bar


def test_a_sweep_is_found_by_its_name_and_a_misspelt_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan("table1", tmp_path)[0].baseline == "all-tp"
    assert main(["sweep", "tabel1", "--cache", "c", "--out", "o"]) == 2
    message = capsys.readouterr().err
    assert "unknown sweep 'tabel1' (did you mean 'table1'?)" in message
    assert all(name in message for name in names())
    assert main(["sweep", "table1", "--cache", "c", "--out", "o", "--jobs", "0"]) == 2
    assert "--jobs: expected a number from 1 on, found 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
