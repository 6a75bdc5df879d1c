"""Comparison of finished runs, and runs that are stopped on the way."""

from pathlib import Path
from typing import Any

import pytest
import torch

import train.step
from train.run import checkpoints, log

TIMES = ("step_s", "images_per_s", "data_wait_s")


def story(run: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in log.read(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoints.load(run / "checkpoints").model)


def same_run(one: Path, other: Path) -> bool:
    """Bit for bit."""
    ours, theirs = weights(one), weights(other)
    return story(one) == story(other) and all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def assert_close(one: Path, other: Path, *, tolerance: float) -> None:
    """Every number of the log, relative and absolute."""
    for ours, theirs in zip(story(one), story(other), strict=True):
        assert log.flat(theirs) == pytest.approx(log.flat(ours), rel=tolerance, abs=tolerance)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """As if Ctrl-C had been pressed while `step` was being computed."""
    before = train.step.Stepper.step

    def stopping(self: Any, batch: Any, *, stop: bool = False) -> Any:
        return before(self, batch, stop=batch.step + 1 == step)

    monkeypatch.setattr(train.step.Stepper, "step", stopping)
