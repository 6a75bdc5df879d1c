"""The patch cosine: one definition for old and new records, in the log, the table of a sweep and its chart."""

import math
from pathlib import Path

import pytest

from train import sweep_table
from train.run import headline
from train.sweep import Row

TERMS = {"cls_smooth_l1": 0.1, "patch_smooth_l1": 0.3}


def test_tokens_of_an_image_are_no_part_of_it() -> None:
    """Records of before average CLS and patches in `cosine`, and call the distance of patches `patch_cosine`."""
    old = {"cosine": 0.7, "smooth_l1": 0.2, "cls_cosine": 0.2, "patch_cosine": 0.4, **TERMS}
    new = {"cosine": 0.6, "smooth_l1": 0.3, "cls_cosine_loss": 0.2, "patch_cosine_loss": 0.4, **TERMS}
    bare = {"cosine": 0.6, "smooth_l1": 0.3}
    for record in (old, new, bare):
        assert headline.patch_cosine(record) == pytest.approx(0.6)
        assert headline.patch_smooth_l1(record) == 0.3


def result(row: str, seed: int, cosine: float) -> sweep_table.Result:
    return sweep_table.Result(
        row=row, seed=seed, step=9, dataset="held", teacher="a", patch_cosine=cosine, patch_smooth_l1=0.5, loss=0.5
    )


def test_runs_without_a_number_are_said_so_and_drawn_as_nothing(tmp_path: Path) -> None:
    rows = [Row(name="tp"), Row(name="sp"), Row(name="lp")]
    results = [result("tp", 0, 0.5), result("tp", 1, 0.7), result("sp", 0, 0.5), result("sp", 1, math.nan)]
    text = sweep_table.markdown("t", rows=rows, baseline="sp", results=results, ended=[])
    assert headline.DEFINITION in text
    assert "| | a | mean over teachers |" in text
    assert "| tp | 0.6000 ± 0.1414 | 0.6000 ± 0.1414 |" in text
    assert "| sp | not a number | not a number |" in text
    assert "| lp | - | - |" in text
    assert sweep_table._plot(tmp_path / "a.png", title="t", rows=rows, results=results).stat().st_size
    nothing = [result("tp", 0, math.nan)]
    assert sweep_table._plot(tmp_path / "b.png", title="t", rows=rows, results=nothing).stat().st_size
