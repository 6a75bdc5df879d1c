"""The curve: bytes a row against the loss of the student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compact.report import between, by_arm, mean
from benchmarks.compact.settings import CONTROL, FLOAT16, Record, Results

BLUE, RED, GREY = "#2a6fdb", "#c8443a", "#444444"


def plot_curve(panels: Sequence[tuple[str, Sequence[Record]]], results: Results, path: Path) -> None:
    """Save one panel for each size and length of training.

    Args:
        panels: title and students of each.
        results: holds the bytes of each encoding.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, students) in zip(axes, panels, strict=True):
        _panel(axis, students, results)
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("loss on held-out photographs\n(against true float16 tokens)")
    axes[-1].legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _panel(axis: Any, students: Sequence[Record], results: Results) -> None:
    arms = {records[0]["encoding"]: records for records in by_arm(students).values()}
    level = mean(arms[FLOAT16], _loss)
    axis.axhline(level, color=GREY, lw=1, ls="--")
    points = []
    for encoding, records in arms.items():
        cache = results.get(f"cache/{records[0]['size']}/{encoding}")
        assert cache is not None
        apart = between(records, arms[FLOAT16], _loss)
        points.append((cache["row_bytes"], level + apart.mean, apart.half_width, encoding))
    points.sort(reverse=True)
    for control, colour, label in ((False, BLUE, "this code"), (True, RED, "PCA, reverse water-filling")):
        shown = [point for point in points if (point[3] == CONTROL) == control]
        if not shown:
            continue
        sizes, losses, widths, names = zip(*shown, strict=True)
        axis.errorbar(sizes, losses, yerr=widths, color=colour, marker="x" if control else "o", ms=6, lw=1.2, capsize=3)
        axis.plot([], [], color=colour, marker="x" if control else "o", lw=1.2, label=label)
        for size, loss, name in () if control else zip(sizes, losses, names, strict=True):
            axis.annotate(name, (size, loss), xytext=(4, 6), textcoords="offset points", fontsize=8)
    axis.plot([], [], color=GREY, lw=1, ls="--", label="float16")
    axis.set_xscale("log", base=2)
    ticks = sorted({point[0] for point in points})
    axis.set_xticks(ticks, [f"{size / 1e3:.1f}" for size in ticks])
    axis.minorticks_off()
    axis.set_xlabel("kB of tokens a row, all teachers")
    axis.spines[["top", "right"]].set_visible(False)


def _loss(record: Record) -> float:
    return float(record["loss"])
