"""Figures as PNG files, for papers and slides; the page draws its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DPI = 150


def draw_pictures(images: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], *, out: Path) -> None:
    """A grid of pictures: one column a model, one row a view.

    Args:
        images: model -> uint8 (H, W, 3), one for each caption; maps of patches are enlarged without smoothing.
        captions: of the rows.
        out: PNG to write.
    """
    figure = new_figure(width=1.35 * len(images) + 0.2, height=1.5 * len(captions) + 0.3)
    axes = figure.subplots(len(captions), len(images), squeeze=False)
    for column, (model, pictures) in enumerate(images.items()):
        axes[0][column].set_title(model.replace(" to ", " to\n"), fontsize=7)
        for row, picture in enumerate(pictures):
            axes[row][column].imshow(picture, interpolation="nearest")
            axes[row][column].set_axis_off()
    for row, caption in enumerate(captions):
        axes[row][0].text(0, -0.04, caption, fontsize=5, transform=axes[row][0].transAxes, va="top")
    save(figure, out)


def new_figure(*, width: float, height: float) -> Any:
    """A matplotlib figure of that size in inches that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, out: Path) -> None:
    """Write a figure, making its folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
