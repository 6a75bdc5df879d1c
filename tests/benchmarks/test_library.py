"""The benchmark of the library runs; its speed is nobody's business here."""

from pathlib import Path

import pytest

from benchmarks import library
from tests.train.builders import build_cache


# Python 3.12 and later warn whenever a process with threads forks.
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")
def test_both_ways_are_measured_on_the_same_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path / "cache")
    out = tmp_path / "library.json"
    report = library.main(cache=(tmp_path / "cache",), workers=(0, 1), batch=4, steps=2, rounds=1, out=out)
    (result,) = report["caches"].values()
    assert set(result["images_per_s"]) == {"loader", "workers 0", "workers 1"}
    assert set(result["ratio"]) == {"workers 0", "workers 1"}
    assert "| cache, workers 1 |" in capsys.readouterr().out
    assert out.is_file()


def test_the_cache_that_is_made_has_rows_of_the_real_size(tmp_path: Path) -> None:
    library.build_cache(tmp_path / "cache", rows=1)
    assert library.CacheDataset(tmp_path / "cache").batch([0]).tokens["first"].shape == (1, 577, 1024)
