"""The plan: arithmetic by hand, what exists, what differs, and that nothing is written."""

from pathlib import Path

import pytest

import extract
import store
from extract.__main__ import main
from extract.catalogue import load_catalogue, narrowed
from extract.job.folder_sizes import many_shards_note
from extract.job.preflight import free_bytes
from extract.plan.plan import count_images, make_plan, open_if_there, parse_rates
from extract.plan.repeats import GroupRepeats
from extract.plan.stored_forms import stored_form
from extract.views.stored_bytes import pixels_row_bytes
from store import errors
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of

ROOT = Path(extract.__file__).parents[1]
SHIPPED = ROOT / "extract" / "catalogues" / "dune.toml"


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["plan", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_the_papers_datasets_without_any_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODISTILL_DATA", raising=False)
    monkeypatch.delenv("CODISTILL_WEIGHTS", raising=False)
    whole = load_catalogue(SHIPPED)
    counts = count_images(whole, cache=None, count_files=True)
    plan = make_plan(narrowed(whole, split="train", views=1), counts=counts)
    dinov2, mast3r, multihmr = plan.arrays[1:]
    assert plan.rows == 20_717_472
    raw, plain = pixels_row_bytes(336, "raw"), stored_form(plan, None)
    assert raw == 336 * 336 * 3 + 4
    assert plain.row_bytes == 1_181_700 + 2 * 1_179_652
    assert plain.bytes_with_raw == 20_717_472 * (raw + plain.row_bytes)
    assert dinov2.row_bytes["val"] == (1 + 24 * 24) * 1024 * 2 + 4
    assert mast3r.row_bytes["val"] == multihmr.row_bytes["val"] == 24 * 24 * 1024 * 2 + 4
    sizes = {ratio: stored_form(plan, ratio).tokens for ratio in (8, 16, 32)}
    assert {ratio: size and round(size / 1e10) for ratio, size in sizes.items()} == {8: 916, 16: 458, 32: 229}
    larger = make_plan(narrowed(whole, image_size=448), counts=counts)
    assert larger.arrays[1].row_bytes["val"] == (1 + 32 * 32) * 1024 * 2 + 4


def test_views_before_bits() -> None:
    """128 M images, a third for each group: 2.3, 24.4 and 89.6 times."""
    counts = {"often": 476_610, "sometimes": 1_748_561, "rarely": 18_492_301}
    groups = [GroupRepeats(group=g, images=n, rows=n, samples=128_116_700 / 3) for g, n in counts.items()]
    assert [round(group.times, 1) for group in groups] == [89.6, 24.4, 2.3]
    assert [(group.proposed_views, group.proposed_ratio) for group in groups] == [(8, 32), (2, 16), (1, 8)]
    assert all(group.proposed_times <= 15 for group in groups)


def test_many_files_in_a_folder() -> None:
    rows = {"in19k": 13_153_480, "small": 10}
    assert many_shards_note({"small": 2_560_000}, shard_rows=256, image_size=336) is None
    note = many_shards_note(rows, shard_rows=256, image_size=336)
    assert note is not None
    assert "'in19k' is 51,381 files" in note
    assert "shard_rows = 1408 in a new cache makes 9,342" in note
    assert "holds 477 MB of decoded pixels" in note
    assert many_shards_note(rows, shard_rows=1408, image_size=336) is None


def test_what_exists_and_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.image_folder(tmp_path / "images", 9)
    datasets = builders.dataset_entry("a", "views = 2\nexpected_images = 10") + builders.dataset_entry("b")
    catalogue = small_catalogue(tmp_path, datasets=datasets)
    before = tree_of(tmp_path)
    fast = ("--rows-per-second", "views=9,1")
    output = output_of(capsys, catalogue, "--cache", tmp_path / "cache", *fast)
    assert "'a': 9 images, expected 10" in output
    assert "free at the target: " in output
    assert tree_of(tmp_path) == before
    assert run_extract(catalogue, "--cache", tmp_path / "cache", "--datasets", "a") == 0
    capsys.readouterr()
    before = tree_of(tmp_path)
    cache = store.open(tmp_path / "cache")
    loaded = load_catalogue(catalogue)
    plan = make_plan(
        loaded, counts=count_images(loaded, cache=cache, count_files=True), cache=cache, rates={"first": 2}
    )
    pixels, first = plan.arrays
    assert [a["train"] for a in (pixels.rows, pixels.rows_left, first.rows, first.rows_left)] == [36, 18, 36, 18]
    assert first.seconds_left == 9.0
    assert pixels.seconds_left is None
    assert [dataset.count.origin for dataset in plan.datasets] == ["cache", "files"]
    assert [dict(dataset.present) for dataset in plan.datasets] == [
        {"pixels": 3, "first": 3},
        {"pixels": 0, "first": 0},
    ]
    # Within a percent of what the shards really take would need large rows; here trailers weigh as much as rows.
    stored = sum(len(content) for name, content in tree_of(tmp_path / "cache").items() if "/c." in name)
    assert plan.bytes_total - plan.bytes_left < stored
    assert tree_of(tmp_path) == before


def test_measured_on_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.plan.measure_rates.SECONDS", 0.01)
    builders.image_folder(tmp_path / "images", 3)
    output = output_of(capsys, small_catalogue(tmp_path), "--device", "cpu", "--threads", "1")
    assert "measuring views of 'pictures' with 1 threads" in output
    assert "measuring teacher 'first' on cpu" in output
    assert "?" not in output
    assert not (tmp_path / "cache").exists()


def test_a_ratio_that_cannot_be_met_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builders.image_folder(tmp_path / "images", 3)
    catalogue = small_catalogue(tmp_path)
    catalogue.write_text(catalogue.read_text().replace('name = "first"', 'name = "first"\nratio = 900', 1))
    assert main(["plan", str(catalogue), "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert "teacher 'first': ratio 900 cannot be met" in printed.err
    assert "measuring" not in printed.err


def test_rates() -> None:
    assert parse_rates("views=900, a=2.5", ["a", "b"]) == {"pixels": 900, "a": 2.5}
    assert parse_rates("250,b=1", ["a", "b"]) == {"a": 250, "b": 1}
    assert parse_rates("", ["a"]) == {}
    for text in ("c=1", "a=", "a=fast", "a=0", "a=-1"):
        with pytest.raises(errors.InvalidInput, match="a name of views, a, b"):
            parse_rates(text, ["a", "b"])


def test_questions_that_cannot_be_answered(tmp_path: Path) -> None:
    builders.image_folder(tmp_path / "images", 3)
    catalogue = load_catalogue(small_catalogue(tmp_path))
    with pytest.raises(errors.InvalidConfig, match=r"--datasets: 'x' is unknown.*--teachers: 'y' is unknown"):
        narrowed(catalogue, datasets=["x"], teachers=["y"])
    with pytest.raises(errors.InvalidConfig, match="use 98 or 112"):
        narrowed(catalogue, image_size=100)
    store.create(tmp_path / "cache", catalogue.recipe.stored())
    with pytest.raises(errors.Conflict, match="image_size: stored 28, asked 42"):
        open_if_there(str(tmp_path / "cache"), narrowed(catalogue, image_size=42).recipe)
    assert open_if_there(str(tmp_path / "none"), catalogue.recipe) is None
    assert free_bytes("s3://bucket/cache") is None


def cells(output: str) -> list[list[str]]:
    """The lines of all tables in an output."""
    lines = (line.replace("┃", "│") for line in output.splitlines() if line[:1] in "│┃")
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def tables_in(output: str) -> list[list[list[str]]]:
    """Each table of an output: its header and its lines."""
    tables: list[list[list[str]]] = []
    for line in output.splitlines():
        if line[:1] in "┏":
            tables.append([])
        elif line[:1] in "│┃":
            tables[-1] += cells(line)
    return tables


def markdown_table(text: str, command: str) -> list[list[str]]:
    """The first table after a command in a page."""
    after = text.partition(command)[2]
    assert after, command
    lines = after.partition("\n| ")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if "---" not in line]


def test_readme_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CODISTILL_DATA", "/none")
    monkeypatch.setenv("CODISTILL_WEIGHTS", "/none")
    arguments = "extract/catalogues/dune.toml --split train --views 1,catalogue"
    printed = tables_in(output_of(capsys, *arguments.split()))
    assert [len(table) for table in printed] == [3, 9, 4, 4]  # choices, forms, and repeats of each number of views
    assert markdown_table(Path("README.md").read_text(), f"codistill extract plan {arguments}") == printed[1]
    arguments = "extract/catalogues/dune.toml --split train"
    values: dict[str, dict[str, str]] = {}
    *costs, _, repeated = tables_in(output_of(capsys, *arguments.split()))
    for header, *lines in costs:
        for line in lines:
            values.setdefault(line[0], {}).update(zip(header, line, strict=True))
    page = Path("docs/extraction.md").read_text()
    assert markdown_table(page, "proposes twice the views at twice the ratio until it is not:\n") == repeated
    documented = markdown_table(page, f"codistill extract plan {arguments}")
    assert len(documented) == 1 + 19 + 1
    for line in documented[1:]:
        row = dict(zip(documented[0], line, strict=True))
        assert {name: values[line[0]][name].rstrip("*") for name in row if name != "dataset"} == {
            name: cell for name, cell in row.items() if name != "dataset"
        }


def test_half_of_it_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster in preparation: one dataset whole, one without its list, one not there at all."""
    monkeypatch.setattr("extract.plan.measure_rates.SECONDS", 0.01)
    builders.image_folder(tmp_path / "images", 9)
    lost = builders.dataset_entry("lost", "expected_images = 5\nviews = 3").replace('"images"', '"nowhere"')
    listless = builders.dataset_entry("listless", 'list = "list.pkl"\nexpected_images = 7')
    catalogue = small_catalogue(tmp_path, datasets=listless + builders.dataset_entry("here") + lost)
    rates = ("--rows-per-second", "views=9,3")
    output = output_of(capsys, catalogue, *rates)
    table = {line[0]: line for line in cells(output)}
    assert [table[name][-1] for name in ("listless", "here", "lost", "all")] == ["3 s", "8 s", "7 s", "18 s"]
    assert "│ 7* │" in " ".join(output.split())
    assert "* expected by the catalogue, not counted: 2 of 3 datasets" in output
    assert f"'listless' cannot be listed: list '{tmp_path / 'list.pkl'}' does not exist" in output
    assert "measuring views of 'here'" in output_of(capsys, catalogue, "--threads", "1", "--device", "cpu")


def test_choices_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.image_folder(tmp_path / "images", 3)
    catalogue = small_catalogue(tmp_path)
    for option, expected in (
        (("--views", "1,0"), "--views 0: expected whole numbers above 0 or 'catalogue'"),
        (("--image-size", "28,30"), "30 px is not a multiple"),
        (("--split", "val"), "--split val: no dataset asked for is of this split"),
    ):
        assert main(["plan", str(catalogue), *option]) == 2
        assert expected in capsys.readouterr().err
