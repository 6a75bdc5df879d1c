"""The benchmark of compact targets: what is compared is equal in everything else, and nothing is computed twice."""

import json
from pathlib import Path

import numpy as np
import pytest

import store
from benchmarks.compact import __main__ as compact
from benchmarks.compact import parts, ridge, speed
from benchmarks.compact.photographs import groups
from benchmarks.compact.report import between, paired
from benchmarks.compact.ridge import floor_of
from benchmarks.compact.settings import CONTROL, FIXED_SIGNS, FLOAT16, RESULTS, Results
from benchmarks.compact.water_filling import bits_of, fit, lloyd_max
from store.errors import Conflict
from store.format.calibration_sample import CalibrationSample, TokenMoments

TINY = {
    "sizes": "56",
    "batches": "6",
    "seeds": 2,
    "steps": 2,
    "few_steps": 3,
    "rows": 100,
    "held_out_rows": 3,
    "depth": 1,
}


def test_the_commands_curve_has_every_encoding_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ENCODINGS", (FLOAT16, "16x", CONTROL))
    monkeypatch.setattr(ridge, "ENCODED", ("16x", CONTROL, FIXED_SIGNS))
    compact.main(tmp_path, parts="curve,ridge", **TINY)  # type: ignore[arg-type]
    results = Results(tmp_path)
    caches = {record["encoding"]: record for record in results.of_kind("cache")}
    assert set(caches) == {FLOAT16, "16x", CONTROL, FIXED_SIGNS}
    assert caches[FLOAT16]["row_bytes"] >= 16 * caches["16x"]["row_bytes"]
    assert caches[CONTROL]["row_bytes"] == caches["16x"]["row_bytes"]
    figures = {name: list(cache["teachers"].values()) for name, cache in caches.items()}
    assert max(teacher["slope"] for teacher in figures[CONTROL]) < 0.9
    assert all(teacher["slope"] == pytest.approx(1, abs=0.02) for teacher in figures["16x"] + figures[FIXED_SIGNS])
    assert all(0.3 < teacher["held_out_noise"] < 0.8 for teacher in figures["16x"])
    students = {(student["encoding"], student["seed"]) for student in results.of_kind("student")}
    assert students == {(name, seed) for name in (FLOAT16, "16x", CONTROL) for seed in (0, 1)}
    float16, control = (store.open(tmp_path / "caches/56" / name) for name in (FLOAT16, CONTROL))
    for teacher in float16["generic"].teachers:  # students of the control are standardised alike
        true, decoded = float16["generic"].statistics(teacher).patch, control["generic"].statistics(teacher).patch
        assert np.array_equal(true.mean, decoded.mean)
        assert np.array_equal(true.m2, decoded.m2)
        rows = [0, 1, 2]
        tokens = [cache["generic"].read(rows, [teacher])[teacher] for cache in (float16, control)]
        assert not np.array_equal(*tokens)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert "± " in (tmp_path / "tables.md").read_text()

    before = (tmp_path / RESULTS).read_bytes()
    compact.main(tmp_path, parts="curve,ridge", **TINY)  # type: ignore[arg-type]
    assert (tmp_path / RESULTS).read_bytes() == before
    with pytest.raises(Conflict, match="rows: 100 there, 50 asked for"):
        compact.main(tmp_path, parts="curve", **{**TINY, "rows": 50})  # type: ignore[arg-type]


def test_speed_of_codes_is_measured_on_rows_that_are_read_as_written(tmp_path: Path) -> None:
    speed.main(quick=True, out=tmp_path)
    report = json.loads((tmp_path / "compact_speed.json").read_text())
    assert {record["reader"] for record in report["reading"]["readers"]} >= {"codistill, verified"}
    assert all(record["rows_per_s"] > 0 for record in report["reading"]["readers"])
    assert report["decoding"]["one thread"]["ratio_to_products"] > 0
    assert all(record["mb_per_s"] > 0 for record in report["encoding"])


def test_a_third_of_the_photographs_is_held_out_whatever_else_is_in_the_folder(tmp_path: Path) -> None:
    for name in ("a/3.jpg", "a/1.jpg", "a/2.png", "a/4.JPEG", "a/notes.txt", "b/1.jpg", "held_out/b/9.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = groups(tmp_path)
    assert (found["a"].train, found["a"].held_out) == (("a/1.jpg", "a/2.png", "a/4.JPEG"), ("a/3.jpg",))
    assert (found["b"].train, found["b"].held_out) == (("b/1.jpg",), ("held_out/b/9.jpg",))


def test_intervals_of_paired_differences() -> None:
    three = paired([0.01, 0.02, 0.03])
    assert three.mean == pytest.approx(0.02)
    assert three.half_width == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)  # Student's t, two degrees of freedom
    assert paired([0.5]).text() == "+0.5000"
    assert three.text(2) == "+0.02 ± 0.02"
    records = [{"seed": seed, "loss": loss} for seed, loss in ((0, 2.0), (1, 5.0))]
    references = [{"seed": seed, "loss": loss} for seed, loss in ((1, 4.0), (0, 3.0), (2, 0.0))]
    assert between(records, references, lambda record: float(record["loss"])).mean == 0.0  # (2 - 3 + 5 - 4) / 2


def test_what_stays_with_any_number_of_rows() -> None:
    rows = [400, 1200, 3800]
    floor, noise = floor_of(rows, np.array([0.01 + 6 / count for count in rows]))
    assert (floor, noise) == (pytest.approx(0.01), pytest.approx(6))


def test_water_filling_has_the_least_error_and_a_slope_below_one() -> None:
    assert lloyd_max(1)[0] == pytest.approx((-0.7978846, 0.7978846))  # sqrt(2 / pi)
    assert lloyd_max(2)[1] == pytest.approx(0.11748, abs=1e-5)  # Max 1960
    bits = bits_of(np.array([8.0, 1.0, 0.01]), 4)
    assert bits.tolist() == [3, 1, 0]
    rng = np.random.default_rng(0)
    spectrum = 1 / np.sqrt(np.arange(1, 17))
    tokens = (rng.standard_normal((64, 16, 16)) * spectrum).astype(np.float16)
    sample = CalibrationSample(tokens=tokens, rows=np.arange(64), prefix_tokens=0, patch_grid=(4, 4))
    quantiser = fit([TokenMoments.of(sample, 1, products=True)], token_bytes=2)
    true, decoded = quantiser.decoded(tokens.reshape(-1, 16))
    assert quantiser.bits.sum() == 16
    assert (true * decoded).sum() / (true * true).sum() < 0.9
    assert np.square(true - decoded).mean() < 0.37 * np.square(true).mean()  # 1 bit each without a basis: 0.363
    back = quantiser.as_tokens(true).astype(np.float32)
    assert np.allclose(back, tokens.reshape(-1, 16).astype(np.float32), atol=2e-3)
