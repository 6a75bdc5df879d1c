"""The log of a run: what older versions wrote reads as what is written today."""

import json
from pathlib import Path

from train.run import log

OLD = [
    {"kind": "step", "step": 1, "loss": 0.5, "terms": {"a": {"cls_cosine": 0.1, "patch_cosine": 0.2}}},
    {"kind": "fidelity", "step": 1, "datasets": {"held": {"a": {"cosine": 0.7, "patch_cosine": 0.3}}}},
]


def test_a_cosine_distance_is_called_a_loss_also_in_older_logs(tmp_path: Path) -> None:
    (tmp_path / log.LOG).write_text("".join(json.dumps(record) + "\n" for record in OLD))
    step, fidelity = log.read(tmp_path)
    assert step["terms"] == {"a": {"cls_cosine_loss": 0.1, "patch_cosine_loss": 0.2}}
    assert fidelity["datasets"] == {"held": {"a": {"cosine": 0.7, "patch_cosine_loss": 0.3}}}
    log.truncate(tmp_path, after_step=1)
    assert log.read(tmp_path) == [step, fidelity]
