"""The figure of `codistill store show`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store.inspection import figure
from store.inspection.row_view import ShownRow, Tokens, gather
from tests.store import caches


def test_norm_maps_of_constant_norms_are_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of one norm, such as a final normalisation gives: float16 alone makes their norms differ."""
    from matplotlib.axes import Axes

    caches.make_cache(tmp_path / "cache")
    shown = gather(store.open(tmp_path / "cache")["flowers"], [0, 9])
    images, imshow = [], Axes.imshow

    def record(axes: Axes, values: np.ndarray, **options: Any) -> Any:
        images.append((options.get("cmap"), imshow(axes, values, **options)))
        return images[-1][1]

    monkeypatch.setattr(Axes, "imshow", record)
    figure.plot_rows(replace(shown, rows=[_with_unit_tokens(row) for row in shown.rows]), tmp_path / "x.png")
    maps = [image for cmap, image in images if cmap == "magma" and image.get_array().shape[0] > 1]  # not the legend's
    colours = [image.to_rgba(image.get_array()).reshape(-1, 4) for image in maps]
    assert len(colours) == sum(isinstance(tokens, Tokens) for row in shown.rows for tokens in row.tokens.values()) > 0
    assert all(len(np.unique(pixels, axis=0)) == 1 for pixels in colours)


def _with_unit_tokens(row: ShownRow) -> ShownRow:
    def unit(values: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(row.row).normal(size=values.shape)
        return (random / np.linalg.norm(random, axis=-1, keepdims=True)).astype(np.float16)

    tokens = {
        name: Tokens(prefix=unit(t.prefix), patches=unit(t.patches)) if isinstance(t, Tokens) else t
        for name, t in row.tokens.items()
    }
    return replace(row, tokens=tokens)


@pytest.mark.parametrize("rows", [[0], [0, 3]])
def test_names_of_files_are_no_formulas(tmp_path: Path, rows: list[int]) -> None:
    caches.make_cache(tmp_path / "cache")
    shown = gather(store.open(tmp_path / "cache")["flowers"], rows)
    odd = "a$x^{$.png"
    renamed = [replace(row, path=odd, photograph=f"not readable: {odd}", pixels=f"failed: {odd}") for row in shown.rows]
    figure.plot_rows(replace(shown, rows=renamed), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size
