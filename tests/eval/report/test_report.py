"""The page: self-contained, with students, teachers and missing results; it works in a browser."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from eval.__main__ import main
from eval.analyses.pca import PHOTOGRAPH, choose, images_of, pictures
from eval.fidelity.measure import Settings
from eval.fidelity.rows import Selection
from eval.report.charts import Dot, Line, dot_chart, line_chart
from eval.report.page import Page, Section, TableBlock, TextBlock, render
from eval.report.run_view import RunView
from eval.report.sections import extraction, scores
from eval.report.tables import Column, Table, interval_cell, number_cell, text_cell
from eval.runs import cached
from eval.runs.open_run import OpenRun
from store.cache.cache import Cache
from store.common.text import human_bytes
from store.inspection.token_images import pca_basis, pca_rgb
from tests.eval.builders import NOTE, SIZE_PX, add_dataset, train_run
from train.data.mixture import Source
from train.recipe.config import Recipe

SUMMARY = {
    "cache": "c",
    "complete": True,
    "problem": None,
    "bytes_per_row": {"pixels": 9412},
    "arrays": [],
    "stages": [
        {
            "stage": "features/alpha",
            "rows": 120,
            "failed": 3,
            "already_rows": 0,
            "stored_bytes": 49000,
            "seconds": 2.5,
            "reasons": {},
            "rows_per_second": 48.0,
            "bytes_per_second": 19600.0,
        }
    ],
}
HARNESS = """
<script>
  const checked = { errors: [] };
  addEventListener("error", (e) => checked.errors.push(String(e.message || e.target.src)), true);
  addEventListener("load", () => {
    const tables = [...document.querySelectorAll("table.sortable")];
    const column = (table, at) => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
    const headings = (table) => [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const table = tables.find((t) => headings(t).includes("TABLE") && headings(t).includes("COLUMN"));
    const at = headings(table).indexOf("COLUMN");
    const header = table.tHead.rows[0].cells[at];
    header.click();
    checked.ascending = column(table, at).map(parseFloat);
    header.click();
    checked.descending = column(table, at).map(parseFloat);
    checked.images = [...document.images].map((image) => image.complete && image.naturalWidth);
    const theme = document.documentElement.dataset.theme;
    document.getElementById("theme").click();
    checked.themes = [theme, document.documentElement.dataset.theme];
    const scrolling = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth + 1);
    checked.scrolling = scrolling.filter((e) => getComputedStyle(e).overflowX === "auto").length;
    const lines = (cell) => {
      const range = document.createRange();
      range.selectNodeContents(cell.firstChild ?? cell);
      return new Set([...range.getClientRects()].map((box) => box.top)).size;
    };
    checked.broken = [...document.querySelectorAll("td.n, td.mono")].filter((cell) => lines(cell) > 1).length;
    checked.wide = document.documentElement.scrollWidth - innerWidth;
    checked.sections = [...document.querySelectorAll("nav a")].every((a) => document.querySelector(a.hash));
    document.body.dataset.checked = JSON.stringify(checked);
  });
</script>
"""


class Links(HTMLParser):
    """Every address that a page refers to, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    summary = out / "extraction.json"
    summary.write_text(json.dumps(SUMMARY))
    assert main(["report", str(run_directory), "--out", str(out), "--extraction", str(summary)]) == 0
    return out / "index.html"


def test_page_is_one_file_that_needs_nothing_else(page: Path) -> None:
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "extraction.json"}
    html = page.read_text()
    outside = [address for address in Links(html).addresses if not address.startswith(("#", "data:"))]
    assert outside == []
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)|https?://(?!www\.w3\.org)", html)


def test_page_says_what_was_trained_on_what(page: Path, cache: Cache) -> None:
    text = Links(page.read_text()).text
    for name in (*cache.datasets, "alpha", "beta", "tiny", "TP", "test_alpha", cache.uuid[:8]):
        assert name in text
    assert cache["people"].teacher("alpha").identity_digest[:12] in text
    assert "held-out photographs, held-out views" in text  # what the mixed datasets are
    assert "48.0" in text
    assert "49.0 kB" in text
    assert NOTE in text


def test_page_names_the_photographs_that_the_student_knows_least_of(opened: OpenRun) -> None:
    sums = cached.fidelity(opened, Settings())
    block = scores.photographs_by_difficulty(sums)
    assert block is not None
    names, means = ([row[column] for row in block.table.rows] for column in (0, 1))
    assert len(names) == 8  # all held-out photographs: fewer than two times five
    assert [cell.sort for cell in means] == sorted(cell.sort for cell in means)  # type: ignore[type-var]
    mask = (sums["predictor"].to_numpy() == "student") & (sums["token_type"].to_numpy() == "patch")
    mask &= sums["image"].to_numpy() == "people-1.jpg#9999"  # of a known name, but another file
    rows = sums.filter(mask)
    expected = np.mean(rows["cosine"].to_numpy() / rows["tokens"].to_numpy())
    shown = next(row for row in block.table.rows if row[0].text == "people-1.jpg")
    assert shown[1].sort == pytest.approx(expected)
    assert scores.photographs_by_difficulty(sums.slice(0, 0)) is None


def test_page_lists_what_was_not_computed(page: Path, run_directory: Path, tmp_path: Path) -> None:
    text = Links(page.read_text()).text
    assert "What was not computed" in text
    assert "--extraction" not in text
    assert main(["report", str(run_directory), "--out", str(tmp_path)]) == 0
    assert "--extraction FILE.json" in Links((tmp_path / "index.html").read_text()).text


def test_second_report_computes_nothing_again(
    page: Path, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("eval.fidelity.measure.measure", refuse)
    monkeypatch.setattr("eval.analyses.pca.pictures", refuse)
    assert main(["report", str(run_directory), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Cosine similarity" in shown
    assert "photographs" in shown
    assert "is above every baseline for" in shown
    with pytest.raises(AssertionError, match="computed again"):
        main(["report", str(run_directory), "--out", str(tmp_path), "--rows", "5"])


def test_several_runs_are_compared_and_notes_of_their_data_are_shown_once(
    run_directory: Path, cache: Cache, tmp_path: Path
) -> None:
    """What the teachers are called says nothing: a small network may well be the teacher that is wanted."""
    second = train_run(cache, tmp_path / "second", seed=1, schedule={"steps": 2})
    description = (second / "cache.json").read_text()
    (second / "cache.json").write_text(description.replace("test_beta", "tf_efficientnet_lite0"))
    assert main(["report", str(run_directory), str(second), "--out", str(tmp_path / "page")]) == 0
    text = Links((tmp_path / "page" / "index.html").read_text()).text
    assert "2 runs compared" in text
    assert "first" in text
    assert "second" in text
    assert "stand-in" not in text
    assert text.count(NOTE) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' is not a run"),
        ([], "no run given"),
        (["RUN", "RUN"], "a run is given twice"),
        (["RUN", "--extraction", "none.json"], "--extraction 'none.json': no such file"),
        (["RUN", "--cache", "/no/cache"], "no cache at /no/cache"),
    ],
)
def test_one_clear_error(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [str(run_directory) if word == "RUN" else word for word in arguments]
    assert main(["report", *given, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "index.html").exists()


def test_fidelity_writes_csv_and_pca_a_picture(run_directory: Path, page: Path, tmp_path: Path) -> None:
    csv, figure = tmp_path / "scores.csv", tmp_path / "figures" / "pca.png"
    assert main(["fidelity", str(run_directory), "--by", "dataset", "--csv", str(csv)]) == 0
    lines = csv.read_text().splitlines()
    assert lines[0].startswith("run,group,teacher,token_type,predictor")
    assert any(line.startswith("first,people-crops,alpha,prefix,student,5,20,cosine,") for line in lines)
    assert main(["pca", str(run_directory), "--out", str(figure)]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_cache_without_held_out_rows_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = store.create(tmp_path / "cache", {"image_size": SIZE_PX, "shard_rows": 16, "seed": 0})
    for group in ("people", "scenes"):
        add_dataset(cache, group, group=group, split="train", images={f"{group}-{n}.jpg": n for n in range(4)})
    store.seal(cache)
    runs = [str(train_run(cache, tmp_path / name, schedule={"steps": 2}, seed=n)) for n, name in enumerate("ab")]
    assert main(["report", *runs, "--out", str(tmp_path / "page")]) == 0
    text = Links((tmp_path / "page" / "index.html").read_text()).text
    assert "no held-out rows in common" in text
    assert "there is nothing to show" in text
    for command in ("pca", "attention"):
        assert main([command, runs[0], "--out", str(tmp_path / "out")]) == 2
        assert "no usable row with split 'val' and the tokens of alpha, beta" in capsys.readouterr().err


def test_bytes_of_a_row_are_those_stored_where_the_extraction_tells_them() -> None:
    described = {"prefix_tokens": 0, "patch_grid": [8, 8], "channels": 112}
    run = RunView(
        name="a",
        path=Path("a"),
        recipe=Recipe(),
        description={"image_size": 112, "teachers": {"lite0": described}, "caches": []},
        step=1,
        parameters=1,
        weights_digest="",
    )
    stored = {"stages": [], "bytes_per_row": {"pixels": 7770, "lite0": 900}}
    for summary, title, pixels, tokens in (
        (stored, "Bytes of one row", 7770, 900),
        (None, "Bytes of one row, decoded", 112 * 112 * 3 + 4, 2 * 64 * 112 + 4),
    ):
        assert extraction.bytes_title(summary) == title
        assert [row[2].text for row in extraction.bytes_table(run, summary).rows] == [
            human_bytes(pixels),
            human_bytes(tokens),
        ]
        contents = extraction.bytes_table(run, summary).rows[1][1].text
        assert contents.endswith("float16, in 15.9 times fewer bytes" if tokens == 900 else "channels float16")


def test_text_is_escaped_everywhere() -> None:
    evil = "<script>alert(1)</script>"
    table = Table(columns=[Column(title=evil, hint='"><b>')], rows=[[text_cell(evil, beside=evil)]], caption=evil)
    chart = line_chart([Line(label=evil, x=[0, 1], y=[0, 1])], x_label=evil, y_label=evil)
    dots = dot_chart([(evil, [Dot(label=evil, value=0.5, low=0.4, high=0.6)])], x_label=evil)
    blocks = [TableBlock(table=table, title=evil), TextBlock(text=evil)]
    section = Section(anchor="a", short=evil, title=evil, intro=(evil,), blocks=blocks)
    html = render(Page(title=evil, lead=evil, version=evil, notes=[evil], sections=[section])) + chart + dots
    assert "alert(1)" in html
    assert evil not in html
    assert '"><b>' not in html


def test_cells_say_what_is_missing() -> None:
    nan = float("nan")
    assert (number_cell(nan).text, number_cell(nan).sort) == ("\N{EM DASH}", "")
    assert number_cell(-1234.5, digits=1).text == "\N{MINUS SIGN}1,234.5"
    assert interval_cell(0.5, nan, nan).beside == "one image"
    assert interval_cell(0.25, 0.125, 0.375, sign=True).text == "+0.250"


def test_charts_with_nothing_or_one_point() -> None:
    nan = float("nan")
    assert "nothing to draw" in line_chart([Line(label="a", x=[1.0], y=[nan])], x_label="x", y_label="y")
    assert "circle" in line_chart([Line(label="a", x=[1.0], y=[2.0])], x_label="x", y_label="y", log_x=True)
    assert "nothing to draw" in dot_chart([("a", [Dot(label="d", value=nan, low=nan, high=nan)])], x_label="x")


def in_browser(
    page: Path, browser: str, tmp_path: Path, *, table: str, column: str, width: int = 1280
) -> dict[str, Any]:
    """Run a page in headless Chromium, with nothing on its console; a table with both headings is sorted."""
    tested = tmp_path / "tested.html"
    harness = HARNESS.replace("TABLE", table).replace("COLUMN", column)
    tested.write_text(page.read_text().replace("<head>", "<head>" + harness, 1))
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr "
        f"--window-size={width},900 "
        "--virtual-time-budget=10000 --dump-dom"
    )
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", tested.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    stored = re.search(r'data-checked="([^"]*)"', done.stdout)
    assert stored is not None
    return dict(json.loads(stored[1].replace("&quot;", '"')))


@pytest.mark.parametrize("width", [600, 1280])
def test_page_works_in_a_browser(page: Path, browser: str, tmp_path: Path, width: int) -> None:
    seen = in_browser(page, browser, tmp_path, table="Mean token", column="Student", width=width)
    assert seen["errors"] == []
    assert len(seen["images"]) >= 6
    assert all(seen["images"])
    assert len(seen["ascending"]) == 6
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["descending"] == sorted(seen["ascending"], reverse=True)
    assert set(seen["themes"]) == {"light", "dark"}
    assert seen["wide"] <= 0
    assert seen["broken"] == 0  # digests and numbers stay in one line: their tables scroll
    assert seen["scrolling"] > 0 or width > 600
    assert seen["sections"]


def test_pictures_show_the_row_that_their_caption_names(opened: OpenRun) -> None:
    selection, captions = choose(opened.mixture, count=9)
    facts, table = pictures(opened.subject(), device=opened.device, count=9)
    assert facts["captions"] == captions
    images = images_of(table)
    paths = [caption.partition(",")[0] for caption in captions]
    assert len(set(paths)) == 9
    kinds = [caption.endswith("(held-out photograph)") for caption in captions]
    assert kinds == sorted(kinds, reverse=True)  # photographs that were never seen come first
    for number, path in enumerate(paths):
        source = selection.sources[selection.rows.source[number]]
        row = int(selection.rows.row[number])
        assert source.dataset.manifest(columns=["path"])["path"][row].as_py() == path
        stored = source.dataset.read([row], ["pixels", "beta"])
        assert np.array_equal(images[PHOTOGRAPH][number], stored["pixels"][0])
    patches = np.concatenate([s.dataset.read([r], ["beta"])["beta"] for s, r in _rows(selection)])
    expected = pca_rgb(patches[4].reshape(4, 4, -1), pca_basis(patches.reshape(-1, patches.shape[-1])))
    assert np.array_equal(images["teacher beta"][4], expected)


def _rows(selection: Selection) -> list[tuple[Source, int]]:
    selected = selection.rows
    return [(selection.sources[source], int(row)) for source, row in zip(selected.source, selected.row, strict=True)]
