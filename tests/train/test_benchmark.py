"""The benchmarks of training run at a size of seconds, and cached targets teach what live ones do."""

from pathlib import Path

import pytest

from benchmarks import startup
from benchmarks import train as benchmark


def test_the_benchmark_runs_and_cached_equals_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = benchmark.main(
        scale="small", steps=2, parity_steps=5, device="cpu", ratios=(4.0,), out=tmp_path / "train.json"
    )
    assert report["parity"]["largest_relative_difference"] < 1e-3
    assert report["cached"]["step_s"] > 0
    assert report["codes at 4x"]["step_s"] > 0
    assert report["row_bytes"]["codes at 4x"] < report["row_bytes"]["cached"]
    printed = capsys.readouterr().out
    assert "live / cached" in printed
    assert "codes at 4x / cached" in printed


def test_a_cold_start_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = startup.main(share=1e-5, recipe="tiny", out=tmp_path / "startup.json")
    assert report["first_batch_s"] > 0
    assert report["first_step_s"] > 0
    assert "besides torch's import" in capsys.readouterr().out
