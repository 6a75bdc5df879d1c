"""Pages of `codistill store show`: at most a screen, one scale for all, a legend."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import store
from store.__main__ import main
from store.inspection import figure, legend, pages
from store.inspection.row_view import Tokens, gather, gather_patches
from store.inspection.scales import scales_of
from tests.store import caches

SCREEN_PX = (1920, 1080)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages") / "cache"
    caches.make_cache(root)
    return root


def size_px(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def show(cache: Path, *arguments: str) -> int:
    return main(["show", str(cache), *arguments])


def test_every_page_fits_a_screen_and_every_row_is_on_one(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = caches.write_images(tmp_path / "images")
    assert show(cache, "flowers", "0:10", "--out", str(tmp_path / "x.png"), "--images", str(images)) == 0
    files = sorted(tmp_path.glob("x-*.png"))
    assert len(files) == -(-10 // 3)
    for file in files:
        width, height = size_px(file)
        assert width <= SCREEN_PX[0]
        assert height <= SCREEN_PX[1]
    assert "drew 10 rows of 'flowers' into" in capsys.readouterr().out
    assert (
        show(cache, "flowers", "0:10", "--page", "2", "--out", str(tmp_path / "two.png"), "--images", str(images)) == 0
    )
    assert "drew 3 of 10 rows of 'flowers', page 2 of 4, into" in capsys.readouterr().out
    assert (tmp_path / "two.png").read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("teachers", [1, 4, 8])
def test_more_teachers_leave_room_for_fewer_rows(cache: Path, tmp_path: Path, teachers: int) -> None:
    few = gather(store.open(cache)["flowers"], [0, 1, 2])
    names = [f"teacher-{number}" for number in range(teachers)]
    rows = [replace(row, tokens=dict.fromkeys(names, row.tokens["dino"])) for row in few.rows]
    shown = replace(few, rows=rows, teachers=dict.fromkeys(names, few.teachers["dino"]))
    grids = [tokens.patches for row in rows if isinstance(tokens := row.tokens[names[0]], Tokens)]
    scales = scales_of(dict.fromkeys(names, grids), shown.teachers, patch=None)
    lines = legend.entries(scales, chosen_rows=3, photograph=False, notes=["x"])
    fits = figure.rows_that_fit(shown, lines)
    assert (fits == 1) == (teachers == 8)
    figure.plot_rows(replace(shown, rows=rows[:fits]), tmp_path / "x.png", scales=scales, tall=fits == 1)
    width, height = size_px(tmp_path / "x.png")
    assert width <= SCREEN_PX[0]
    assert height <= SCREEN_PX[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0", "--page", "2"), "--page 2: 1 rows have pages 1 to 1"),
        (("0:9", "--rows-per-page", "1"), "at most 3 are drawn at once. Pass --page N"),
        (("0", "--teachers", "mast"), "names a teacher, and so does --teachers"),
        (("nosuch.jpg",), "no image of 'flowers' is called"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line(
    cache: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pages, "MOST_PAGES", 3)
    assert show(cache, "flowers/dino", *arguments, "--out", str(tmp_path / "x.png")) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_rows_the_first_page_is_drawn(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts: list[str] = []
    monkeypatch.setattr(figure, "plot_rows", lambda shown, out, **values: texts.append(values["title"]))
    assert show(cache, "flowers", "--out", str(tmp_path / "x.png")) == 0
    assert texts == ["page 1 of 4"]
    assert f"page 1 of 4, into {tmp_path / 'x.png'}" in capsys.readouterr().out


def test_pages_share_the_scales_of_all_rows_and_the_legend_tells_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store.open(cache)["flowers"]
    used: list[Any] = []
    monkeypatch.setattr(figure, "plot_rows", lambda shown, out, **values: used.append(values["scales"]))
    rows = np.arange(10)
    pages.draw_pages(dataset, rows, tmp_path / "x.png")
    assert len({id(scales) for scales in used}) == 1
    scale = used[0]["dino"]
    patches = gather_patches(dataset, rows.tolist(), {"dino": dataset.teacher("dino")})["dino"]
    lengths = np.linalg.norm(np.concatenate([grid.reshape(-1, 6) for grid in patches]).astype(float), axis=1)
    assert scale.norm_range == (lengths.min(), lengths.max())
    assert scale.rows == len(patches) == 8
    values = np.concatenate([grid.reshape(-1, 6) for grid in patches]).astype(float)
    spectrum = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(scale.explained, (spectrum / spectrum.sum())[:3], atol=1e-6)
    text = " ".join(entry[1] for entry in legend.entries(used[0], chosen_rows=10, photograph=True))
    low, high = scale.norm_range
    for part in (
        "red, green and blue are the 1st, 2nd and 3rd",
        "9 rows spread over the 10 chosen",
        f"dino {low:.3g} to {high:.3g}",
        "in the teacher's own feature units",
        f"cosine to the outlined patch of the same row (row {scale.patch[0]}, column {scale.patch[1]} of the grid)",
    ):
        assert part in text


def test_a_legend_of_no_tokens_is_short() -> None:
    assert scales_of({"dino": []}, {}, patch=None) == {}
    assert [text for _, text in legend.entries({}, chosen_rows=1, photograph=False)] == [
        "grey panel: not there, with the reason"
    ]
