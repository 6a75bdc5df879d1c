"""The benchmark of the page runs and every answer is one; its speed is nobody's business here."""

import json
from pathlib import Path

from benchmarks import view


def test_the_page_of_a_cache_of_any_size_is_measured(tmp_path: Path) -> None:
    view.main(quick=True, folder=tmp_path, out=tmp_path / "results")
    report = json.loads((tmp_path / "results/view.json").read_text())
    assert set(view.TARGETS) <= set(report["seconds"])
    assert set(view.LISTS) <= set(report["seconds"])
    assert all(times["wall"] > 0 for times in report["seconds"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
