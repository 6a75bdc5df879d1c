"""Curves of a run as one PNG: the loss, and each teacher's training loss and held-out patch cosine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.common import atomic
from store.errors import MissingExtra
from train.run import headline, log

FILE = "curves.png"
CORRECTED = "corrected_loss"  # of a record; there where targets are codes
CORRECTED_LABEL = "estimate on true tokens"
SMOOTHING = 0.02  # window of the running mean, as a share of the steps


def plot_curves(run: Path, out: Path | None = None) -> Path:
    """Plot the curves of a run from its log.

    Args:
        run: run directory.
        out: PNG file to write; None writes `FILE` in the run directory.

    Returns:
        Path of the file.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("curves need matplotlib. Install codistill[train]") from None
    steps, fidelity = log.read(run, log.STEP), log.read(run, log.FIDELITY)
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, teachers, held_out = figure.subplots(1, 3)
    _plot_losses(loss, steps)
    _plot_teachers(teachers, steps)
    _plot_fidelity(held_out, fidelity)
    for axes in (loss, teachers, held_out):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.suptitle(run.name)
    path = out or run / FILE
    with atomic.replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def running_mean(values: Sequence[float], window: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mean over the last `window` values at each position; over fewer at the beginning."""
    sums = np.cumsum(np.asarray(values, dtype=np.float64))
    ends = np.arange(1, len(sums) + 1)
    begins = np.maximum(ends - window, 0)
    return (sums - np.where(begins > 0, sums[begins - 1], 0.0)) / (ends - begins)


def _plot_losses(axes: Any, steps: Sequence[log.Record]) -> None:
    axes.set_title("loss (minimised)")
    x, y = [record["step"] for record in steps], [record["loss"] for record in steps]
    axes.plot(x, y, alpha=0.3, color="black", linewidth=0.6)
    axes.plot(x, running_mean(y, window(steps)), color="black", label="loss")
    if steps and CORRECTED in steps[0]:
        corrected = [record[CORRECTED] for record in steps]
        axes.plot(x, running_mean(corrected, window(steps)), color="black", linestyle="--", label=CORRECTED_LABEL)
        axes.legend()
    rate = axes.twinx()
    rate.plot(x, [record["lr"] for record in steps], color="tab:gray", linestyle=":", linewidth=1)
    rate.set_ylabel("learning rate (dotted)")


def _plot_teachers(axes: Any, steps: Sequence[log.Record]) -> None:
    axes.set_title("training loss per teacher, before dropping")
    decoded = bool(steps) and f"{CORRECTED}_per_teacher" in steps[0]
    for number, name in enumerate(steps[0]["loss_per_teacher"] if steps else ()):
        for kind, style in (("loss", "-"), (CORRECTED, "--")) if decoded else (("loss", "-"),):
            values = [(record["step"], record[f"{kind}_per_teacher"][name]) for record in steps]
            points = [(step, value) for step, value in values if value is not None]
            smooth = running_mean([value for _, value in points], window(steps))
            label = name if kind == "loss" else None
            axes.plot([step for step, _ in points], smooth, label=label, color=f"C{number}", linestyle=style)
    if steps:
        axes.legend(title=f"dashed: {CORRECTED_LABEL}" if decoded else None)


def _plot_fidelity(axes: Any, records: Sequence[log.Record]) -> None:
    axes.set_title(f"held-out {headline.PATCH_COSINE}")
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for record in records:
        for dataset, teachers in record["datasets"].items():
            for name, values in teachers.items():
                curves.setdefault((dataset, name), []).append((record["step"], headline.patch_cosine(values)))
    for (dataset, name), points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{name} on {dataset}")
    if curves:
        axes.legend(fontsize="small")
    else:
        axes.text(0.5, 0.5, "no held-out dataset", ha="center", transform=axes.transAxes)


def window(steps: Sequence[log.Record]) -> int:
    """Return the number of steps that the running mean of a log goes over."""
    return max(1, round(SMOOTHING * len(steps)))
