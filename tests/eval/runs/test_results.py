"""Stored results: reused while nothing changes, recomputed after a change of the run, the cache or a setting."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eval.runs.results import Results

KEY = {"weights": "aa", "caches": [{"uuid": "u", "status": "s"}]}


class Counting:
    """A computation that counts how often it runs."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[dict[str, Any], pa.Table]:
        self.calls += 1
        return {"answer": self.calls, "pair": (1, 2)}, pa.table({"x": [self.calls]})


def test_computed_once_while_nothing_changes(tmp_path: Path) -> None:
    compute = Counting()
    first = Results(tmp_path, KEY).get_or_compute("fidelity", {"rows": 5}, compute)
    again = Results(tmp_path, dict(reversed(KEY.items()))).get_or_compute("fidelity", {"rows": 5}, compute)
    assert compute.calls == 1
    assert first == again == ({"answer": 1, "pair": [1, 2]}, pa.table({"x": [1]}))


@pytest.mark.parametrize(
    ("key", "kind", "settings"),
    [
        ({**KEY, "weights": "bb"}, "fidelity", {"rows": 5}),
        ({**KEY, "caches": [{"uuid": "u", "status": "other"}]}, "fidelity", {"rows": 5}),
        (KEY, "fidelity", {"rows": 6}),
        (KEY, "pca", {"rows": 5}),
    ],
)
def test_any_change_computes_again_and_keeps_the_other(
    tmp_path: Path, key: dict[str, Any], kind: str, settings: dict[str, Any]
) -> None:
    compute = Counting()
    Results(tmp_path, KEY).get_or_compute("fidelity", {"rows": 5}, compute)
    assert Results(tmp_path, key).get(kind, settings) is None
    Results(tmp_path, key).get_or_compute(kind, settings, compute)
    assert compute.calls == 2
    stored = Results(tmp_path, KEY).get("fidelity", {"rows": 5})
    assert stored is not None
    assert stored[0]["answer"] == 1


@pytest.mark.parametrize("damage", ["json", "parquet", "gone"])
def test_a_damaged_result_is_computed_again(tmp_path: Path, damage: str) -> None:
    compute = Counting()
    results = Results(tmp_path, KEY)
    results.get_or_compute("fidelity", {}, compute)
    (stored,) = tmp_path.glob("eval/*.json")
    if damage == "json":
        stored.write_text(stored.read_text()[:-20])
    elif damage == "parquet":
        stored.with_suffix(".parquet").write_bytes(b"PAR1")
    else:
        stored.with_suffix(".parquet").unlink()
    assert results.get_or_compute("fidelity", {}, compute)[0]["answer"] == 2
    assert results.get("fidelity", {}) is not None


def test_latest_finds_whatever_settings_were_used(tmp_path: Path) -> None:
    results = Results(tmp_path, KEY)
    assert results.latest("variance") is None
    results.put("variance", {"rows": 1}, {"answer": 1})
    Results(tmp_path, {**KEY, "weights": "old"}).put("variance", {"rows": 2}, {"answer": 2})
    assert results.latest("variance") == ({"rows": 1}, {"answer": 1}, None)
    (tmp_path / "eval" / "variance-garbage.json").write_text(json.dumps([1]))
    assert results.latest("variance") is not None
