"""Figures as files: legends and captions can be read, lie inside the figure, and cover no picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.analyses.attention import ENCODER, PROJECTOR
from eval.report import figures
from eval.report.sections.analyses import _marked, attention_grids, heat

SIZE = 28
GRID = (2, 3)


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were written."""
    saved: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, out: saved.append(figure))
    return saved


def check_texts(figure: Any) -> list[str]:
    """Check size and place of every text of a figure; return the texts."""
    figure.canvas.draw()
    panels = [axes.get_window_extent() for axes in figure.axes]
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(panel) for panel in panels)
    assert sum(box.overlaps(other) for box in boxes for other in boxes) == len(boxes)  # each with itself alone
    assert all(text.get_fontsize() >= 8 for text in figure.texts)
    return [" ".join(text.get_text().split()) for text in figure.texts]


@pytest.mark.parametrize("models", [1, 3, 8])
def test_captions_of_pictures_can_be_read(plotted: list[Any], models: int) -> None:
    names = ["photograph", "teacher multi-hmr-large-896", "projection to W", *"abcde"][:models]
    images = {name: [np.zeros((4, 4, 3), np.uint8)] * 2 for name in names}
    captions = ["WWWW/$x^{" * 30 + ", view 3 (held-out photograph)", "b.jpg"]
    figures.plot_pictures(images, captions, out=Path("unused.png"))
    texts = check_texts(plotted[0])
    assert texts[: models + 2][-1] == "b.jpg"
    assert texts[models].replace(" ", "") == captions[0].replace(" ", "")
    assert "one basis for each network" in texts[-1]


def attention(network: str, medoid: int, *, image: int, values: list[float]) -> dict[str, Any]:
    first = medoid == 0 and network == ENCODER
    return {
        "image": image,
        "caption": f"view {image}",
        "network": network,
        "medoid": medoid,
        "patch": 4 + medoid,
        "share": 0.75 - 0.5 * medoid,
        "rows": GRID[0],
        "cols": GRID[1],
        "attention": values,
        "photograph": bytes(SIZE * SIZE * 3) if first else None,
        "size_px": SIZE,
    }


def test_attention_maps_have_a_legend_and_name_what_they_show(plotted: list[Any]) -> None:
    values = [0.1, 0.2, 0.3, 0.1, 0.2, 0.1]
    entries = [
        attention(network, medoid, image=image, values=values)
        for image in (0, 1)
        for network in (ENCODER, PROJECTOR + "mast3r")
        for medoid in (0, 1)
    ]
    figures.plot_attention(entries, out=Path("unused.png"))
    texts = check_texts(plotted[0])
    assert texts[:3] == ["photograph", "map 1", "map 2"]
    assert "view 1: projector of mast3r" in texts
    assert texts.count("75 %") == texts.count("25 %") == 4
    assert "patch outlined in cyan" in " ".join(texts)
    assert texts[-2:] == ["least attention", "most"]
    outlines = [patch.get_xy() for axes in plotted[0].axes for patch in axes.patches]
    assert outlines == [(0.5, 0.5), (1.5, 0.5)] * 4  # patches 4 and 5 of a grid of 2 x 3


def test_a_map_on_the_page_marks_its_patch_and_an_even_one_has_one_colour() -> None:
    _, grids = attention_grids([attention(ENCODER, 0, image=0, values=[0.1, 0.2, 0.3, 0.1, 0.2, 0.1])])
    (shown,) = grids[ENCODER]
    pixels = _marked(shown)
    assert pixels.shape == (24, 36, 3)
    marked = (pixels == (0, 255, 255)).all(-1)
    assert marked.sum() == 4 * 11
    assert marked[12:24, 12:24].sum() == marked.sum()
    even = np.full((4, 4), 1 / 16, np.float32) * (1 + 1e-6 * np.random.default_rng(0).normal(size=(4, 4)))
    assert len(np.unique(heat(even).reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(heat(even * np.arange(1, 17).reshape(4, 4)).reshape(-1, 3), axis=0)) == 16
