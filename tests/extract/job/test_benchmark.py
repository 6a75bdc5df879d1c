"""The benchmarks run; their figures are for people."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.extract import __main__ as benchmark
from benchmarks.extract import gpu, host


def test_small_scale(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    benchmark.main(scale="small", rows=8, device="cpu", threads=1, processes=True, out=out)
    report = json.loads(out.read_text())
    assert report["views"]["none"]["rows"] == report["views"]["dune"]["rows"] == 8 * benchmark.VIEWS_PER_ROW
    assert report["features"]["rows"] == 8
    for part in (report["features"], *report["views"].values()):
        assert part["stage_over_bare"] > 0
        assert part["written_gb_per_second"] > 0
    assert report["features"]["gpu_utilisation"] is None
    assert all(teacher["images_per_second"] > 0 for teacher in report["teachers"].values())
    assert report["processes"]["two_over_one"].keys() == {"views", "features/teacher"}


def test_beside_a_teacher_of_any_speed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    host.main(rows=24, rates=(400.0,), shard_rows=8, batch_size=4, quick=True, folder=tmp_path, out=out)
    [measured] = json.loads(out.read_text())["measured"]
    assert measured["wall_over_teacher"] >= 1
    assert measured["gb_per_second"] > 0
    assert list(tmp_path.iterdir()) == [out]


def test_gpu_utilisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the driver's program, which prints 40 and 80 % and goes on until it is ended."""
    program = tmp_path / "nvidia-smi"
    sampled, never = tmp_path / "sampled", tmp_path / "never"
    os.mkfifo(sampled)
    os.mkfifo(never)
    program.write_text(f"#!/bin/sh\necho 40\necho 80\necho '[N/A]'\n: > '{sampled}'\nexec cat '{never}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    class Properties:
        uuid = "0-1"

    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Properties())
    with gpu.utilisation("cuda:0") as measured:
        sampled.read_bytes()  # waits until the program writes to it
    assert measured.mean == pytest.approx(0.6)
    with gpu.utilisation("cpu") as none:
        pass
    assert none.mean is None
