"""The benchmark runs; its figures are for people."""

import json
from pathlib import Path

from benchmarks import extract as benchmark


def test_small_scale(tmp_path: Path) -> None:
    benchmark.main(scale="small", rows=8, device="cpu", threads=1, out=tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["views"]["none"]["rows"] == report["views"]["dune"]["rows"] == 32
    assert report["features"]["rows"] == 8
    for part in (report["features"], *report["views"].values()):
        assert part["stage_over_bare"] > 0
