"""Results about a run stay valid while what it used is what it was, and need no cache."""

import json
import shutil
from pathlib import Path

import pytest

import store
from eval.fidelity.measure import Settings
from eval.runs import cached
from eval.runs.open_run import open_run
from store.errors import Conflict, MissingCache
from tests.eval.builders import TEACHERS, add_dataset, build_cache, train_run

SETTINGS = Settings(rows_per_dataset=4, fit_rows=16)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and a run of two steps whose fidelity is stored."""
    folder = tmp_path_factory.mktemp("measured")
    run = train_run(build_cache(folder / "cache"), folder / "run", schedule={"steps": 2})
    cached.fidelity(open_run(run, device="cpu"), SETTINGS)
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """A copy, where the run looks for the copy of its cache."""
    shutil.copytree(measured, tmp_path / "copy")
    file = tmp_path / "copy" / "run" / "cache.json"
    file.write_text(file.read_text().replace(str(measured), str(tmp_path / "copy")))
    return tmp_path / "copy"


def add_data(cache: Path) -> None:
    """More photographs to train on and to measure on."""
    opened = store.open(cache)
    for name, split in (("cats", "train"), ("cats-held", "val")):
        images = {f"{name}-{number}.jpg": 3000 + number for number in range(3)}
        add_dataset(opened, name, group="people", split=split, images=images)  # type: ignore[arg-type]
    store.seal(opened)


@pytest.mark.parametrize("older", [False, True])
def test_more_data_changes_no_result(older: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run from before rows were recorded, whose results have the keys of that version."""
    if older:
        (folder / "run" / "rows.npz").unlink()
        file = folder / "run" / "cache.json"
        description = json.loads(file.read_text())
        for entry in description["caches"][0]["datasets"].values():
            del entry["pixels_identity"]
        file.write_text(json.dumps(description))
        cached.fidelity(open_run(folder / "run", device="cpu"), SETTINGS)
    monkeypatch.setattr(cached.measure, "measure", None)
    before = cached.fidelity(open_run(folder / "run", device="cpu"), SETTINGS)
    add_data(folder / "cache")
    opened = open_run(folder / "run", device="cpu")
    assert cached.fidelity(opened, SETTINGS) == before
    assert {source.dataset.name for source in opened.mixture.held_out} == {
        f"{group}-{kind}" for group in ("people", "scenes") for kind in ("crops", "mixed")
    }
    shutil.rmtree(folder / "cache")
    assert cached.fidelity(open_run(folder / "run", device="cpu"), SETTINGS) == before


def test_what_is_not_stored_needs_the_data_that_the_run_used(folder: Path) -> None:
    other = Settings(rows_per_dataset=3, fit_rows=16)
    cache = store.open(folder / "cache")
    cache["people"].delete_teacher("beta")
    opened = open_run(folder / "run", device="cpu")
    cached.require_fidelity(opened, SETTINGS)
    with pytest.raises(Conflict, match=r"'people' is used and gone: .*'beta'"):
        cached.require_fidelity(opened, other)
    shutil.rmtree(folder / "cache")
    opened = open_run(folder / "run", device="cpu")
    cached.require_fidelity(opened, SETTINGS)
    with pytest.raises(MissingCache, match="no cache at"):
        cached.require_fidelity(opened, other)


def test_another_cache_with_one_more_teacher_is_measured_with_those_of_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(TEACHERS, "gamma", (0, 5, ("people",)))
        build_cache(folder / "other")
    opened = open_run(folder / "run", caches=[str(folder / "other")], device="cpu")
    assert list(opened.mixture.teachers) == ["alpha", "beta"]
    assert opened.results.latest(cached.FIDELITY) is None
