"""The benchmarks run; their figures are for people."""

import json
from pathlib import Path

from benchmarks import extract as benchmark
from benchmarks import extract_host


def test_small_scale(tmp_path: Path) -> None:
    benchmark.main(scale="small", rows=8, device="cpu", threads=1, out=tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["views"]["none"]["rows"] == report["views"]["dune"]["rows"] == 32
    assert report["features"]["rows"] == 8
    for part in (report["features"], *report["views"].values()):
        assert part["stage_over_bare"] > 0


def test_beside_a_teacher_of_any_speed(tmp_path: Path) -> None:
    extract_host.main(
        rows=24, rates=(400.0,), shard_rows=8, batch_size=4, quick=True, folder=tmp_path, out=tmp_path / "h"
    )
    [found] = json.loads((tmp_path / "h").read_text())["measured"]
    assert found["wall_over_teacher"] >= 1
    assert found["gb_per_second"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["h"]
