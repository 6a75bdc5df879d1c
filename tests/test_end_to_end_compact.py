"""The demo's way at miniature: JPEG pixels and codes at 8x from photographs to scores on true held-out tokens."""

import json
from pathlib import Path

import pytest

import store
from codistill import __main__ as codistill
from demo.collect import collect
from tests.test_end_to_end import CATALOGUE, training

RATIO = 8


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compact-workspace")
    collect(folder)
    text = CATALOGUE.replace("shard_rows = 4", 'shard_rows = 64\npixels = "jpeg"').replace("views = 3", "views = 40")
    text = text.replace('split = "train"\n\n', 'split = "train"\nviews = 12\n\n').replace(
        "first_view = 3", "first_view = 40"
    )
    (folder / "catalogue.toml").write_text(f"{text}ratio = {RATIO}\n")
    assert codistill.main(["extract", "run", f"{folder}/catalogue.toml", "--cache", f"{folder}/cache"]) == 0
    assert codistill.main(training(folder)) == 0
    return folder


def test_training_rows_are_an_eighth_and_held_out_rows_are_float16(workspace: Path) -> None:
    cache = store.open(workspace / "cache")
    for name, coded in (("people", True), ("generic", True), ("people-views", False), ("scenes-photographs", False)):
        dataset = cache[name]
        assert (dataset.teacher("lite0").code is not None) == coded
        (sharding,) = dataset.array("pixels").document["codecs"]
        assert "jpeg" in sharding["configuration"]["codecs"][0]["name"]
        if coded:
            assert dataset.array("lite0").row_shape[0] * RATIO <= 16 * 112 * 2
            told = dataset.distortion("lite0")
            assert told.slope("patch") == pytest.approx(1, abs=0.02)
            assert told.noise("patch") < 0.15
    assert codistill.main(["store", "verify", str(cache.location)]) == 0


def test_a_student_of_codes_is_scored_on_true_tokens(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = map(json.loads, (workspace / "run" / "log.jsonl").read_text().splitlines())
    steps = [record for record in records if "loss" in record]
    assert len(steps) == 4
    assert all(0 < record["corrected_loss"] < record["loss"] for record in steps)
    assert codistill.main(["eval", "fidelity", f"{workspace}/run", "--fit-rows", "64"]) == 0
    printed = capsys.readouterr().out
    assert "lite0" in printed
    assert "decoded" not in printed
