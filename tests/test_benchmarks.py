"""The benchmarks of the store run, and what they read is what was written; their speed is nobody's business here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machine import ROOT
from benchmarks.store import __main__ as store_benchmark
from benchmarks.store import damage, jpeg_pixels, scale
from benchmarks.store.peers import missing_modules
from tests.extract.builders import image_folder


def test_every_reader_and_writer_agrees_on_the_rows(tmp_path: Path) -> None:
    arguments = ["--quick", "--folder", str(tmp_path), "--out", str(tmp_path / "results")]
    command = [
        sys.executable,
        "-m",
        "benchmarks.store",
        *arguments,
    ]  # lance does not let a process fork any more
    subprocess.run(command, cwd=ROOT, check=True)
    report = json.loads((tmp_path / "results/store.json").read_text())
    expected = [peer for peer in store_benchmark.readers() if not missing_modules(peer.modules)]
    measured = {(record["reader"], record["order"], record["page_cache"]) for record in report["reading"]}
    assert measured == {
        (peer.name, order, page_cache)
        for peer in expected
        for order in ("random", "sequential")
        for page_cache in ("warm", "cold")
    }
    assert {record["resident_before"] for record in report["reading"] if record["page_cache"] == "warm"} == {1.0}
    assert all(record["gb_per_s"] > 0 and record["ratio_to_raw"] > 0 for record in report["reading"])
    assert {record["array"] for record in report["writing"]} == {"pixels", "dinov2"}
    assert all(record["stored_bytes"] >= record["bytes"] for record in report["writing"])
    assert report["memory"]["reads"] >= 640
    assert (tmp_path / "results/store.png").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_peer_that_is_not_installed_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_benchmark, "missing_modules", lambda modules: [m for m in modules if m == "lance"])
    chosen, absent = store_benchmark.chosen(store_benchmark.readers(), only=())
    assert absent == {"Lance": ["lance"]}
    assert "Lance" not in {peer.name for peer in chosen}


def test_a_cache_of_any_size_opens_and_samples(tmp_path: Path) -> None:
    scale.main(quick=True, folder=tmp_path, out=tmp_path / "results")
    report = json.loads((tmp_path / "results/store_scale.json").read_text())
    measured, trainer = report["warm"]["store"], report["warm"]["train"]
    assert measured["rows"] * 0.98 < measured["usable_rows"] < measured["rows"]
    assert sum(trainer["groups"].values()) == measured["usable_rows"]
    assert 0 < measured["selected"] < measured["selection_of"]
    assert {"open_s", "valid_rows_s", "valid_rows_peak_bytes", "row_lookup_s", "reads_growth_bytes"} <= set(measured)
    assert {"ready_s", "ready_peak_bytes", "step_s"} <= set(trainer)


def test_pixels_as_jpeg_are_measured(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 3)
    report = jpeg_pixels.main(tmp_path / "images", views=2, image_size=56, seconds=0.01, out=tmp_path / "jpeg.json")
    assert json.loads((tmp_path / "jpeg.json").read_text()) == report
    assert (report["rows"], 1 < report["ratio"] < 20, 30 < report["psnr_db"] < 60) == (6, True, True)
    assert report["decoded_rows_per_s"] > 0
    assert set(report["read_rows_per_s"]) == {"raw", "jpeg"}


def test_damage_is_found_and_repaired(tmp_path: Path) -> None:
    damage.main(quick=True, out=tmp_path)
    report = json.loads((tmp_path / "store_damage.json").read_text())
    assert report["flips"]["found"] == report["flips"]["repaired"] == report["flips"]["flips"] == 30
    bits = report["bits"]
    assert (bits["found"], bits["silently accepted"]) == (bits["flips"], 0)
    assert all(case["found"] and damage.as_expected(case) for case in report["structural"])
