"""The training benchmark runs, and its comparison of cached and live targets holds, at a size of seconds."""

from pathlib import Path

import pytest

from benchmarks import train as benchmark


def test_the_benchmark_runs_and_cached_equals_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = benchmark.main(scale="small", steps=2, parity_steps=5, device="cpu", out=tmp_path / "train.json")
    assert report["parity"]["largest_relative_difference"] < 1e-3
    assert report["cached"]["step_s"] > 0
    assert "live / cached" in capsys.readouterr().out
