"""Whole jobs by the command: what ends up in the cache, what a second run does, what is refused."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import store
from extract import teachers
from extract.catalogue import load_catalogue
from extract.views.decode import decode
from extract.views.parameters import Photometric, ViewParameters
from extract.views.render import render
from store.format.schema import FAILED, OK
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of

TURNED = 'rotate = [{contains = "part1", degrees = 90}]'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    builders.image_folder(tmp_path / "images", 9)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_everything_is_stored_and_can_be_redone_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue_path = small_catalogue(
        folder,
        datasets=builders.dataset_entry(
            "train", 'views = 3\nfirst_view = 5\nrotate = [{contains = "part1", degrees = 90}]'
        )
        + builders.dataset_entry("middle", 'mode = "center"\nsplit = "val"'),
    )
    assert run_extract(catalogue_path, "--cache", folder / "cache", "--batch-size", 3) == 0
    output = printed(capsys)
    assert "complete: nothing is missing" in output
    assert re.search(r"^\[1/2\] views +36/36 rows .*\n(.*\n)*\[2/2\] features/first +36/36 rows", output, re.MULTILINE)
    cache = store.open(folder / "cache")
    recipe = load_catalogue(catalogue_path).recipe
    teacher = teachers.load("timm:test_vit", weights=folder / "first.safetensors")
    hierarchy = zarr.open_group(folder / "cache" / "features.zarr", mode="r")
    for dataset in cache:
        manifest = dataset.manifest().to_pylist()
        pixels = hierarchy[f"{dataset.name}/pixels"][:]
        tokens = hierarchy[f"{dataset.name}/first/tokens"][:]
        assert [row["row"] for row in manifest] == list(range(9 * dataset.views))
        for row in manifest:
            assert row["status"] == OK
            assert row["view"] == dataset.first_view + row["row"] % dataset.views
            image = decode((folder / "images" / row["path"]).read_bytes(), rotation=row["rotate_deg"])
            assert (row["source_height"], row["source_width"]) == image.shape[:2]
            redrawn = render(image, parameters_of(row, dataset.mode), image_size=28)
            np.testing.assert_array_equal(redrawn, pixels[row["row"]])
        prefix, patches = teacher(torch.from_numpy(pixels))
        np.testing.assert_allclose(tokens, torch.cat((prefix, patches), 1).half().numpy(), atol=2e-3, rtol=2e-3)
    assert {row["rotate_deg"] for row in cache["train"].manifest().to_pylist()} == {0, 90}
    assert cache.recipe == recipe.stored()
    assert cache["train"].read_trailer("first", 0).provenance["batch_size"] == 3


def parameters_of(row: dict[str, object], mode: str) -> ViewParameters:
    colours = {name: row[name] for name in Photometric.__dataclass_fields__}
    crop = {side: row[f"crop_{side}"] for side in ("top", "left", "height", "width")}
    return ViewParameters(**crop, flip=row["flip"], center=mode == "center", photometric=Photometric(**colours))


def test_broken_images_fail_with_reasons_and_the_rest_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = builders.encoded(builders.picture(1), "JPEG")
    broken = {
        "truncated.jpg": (whole[: len(whole) // 2], "damaged image"),
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"this is no image", "not an image"),
    }
    for name, (content, _) in broken.items():
        (folder / "images" / name).write_bytes(content)
    (folder / "images" / "outside.jpg").symlink_to("/etc/hostname")
    (folder / "images" / "dangling.jpg").symlink_to("nothing")
    reasons = {name: reason for name, (_, reason) in broken.items()}
    reasons |= {"outside.jpg": "outside the root", "dangling.jpg": "missing file"}
    assert run_extract(small_catalogue(folder), "--cache", folder / "cache", "--max-failed", "100%") == 0
    kinds = sorted(set(reasons.values()))
    assert f"failed in views: 2 {', 2 '.join(kinds)}\n" in printed(capsys)
    dataset = store.open(folder / "cache")["pictures"]
    for row in dataset.manifest().to_pylist():
        if row["path"] in reasons:
            assert row["error"].startswith(f"{reasons[row['path']]}: ")
            assert row["status"] == FAILED
            assert row["crop_top"] is None
        else:
            assert row["status"] == OK
            assert row["error"] is None
    assert (dataset.status("first") == dataset.status("pixels")).all()
    shard = dataset.present("first")
    errors_told = [reason for k in shard for reason in dataset.read_trailer("first", k).errors.values()]
    assert len(errors_told) == 2 * len(reasons)
    assert all(reason.startswith("no pixels: ") for reason in errors_told)
    assert len(dataset.valid_rows(["first"])) == 18
    assert run_extract(small_catalogue(folder), "--cache", folder / "cache", "--max-failed", "100%") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]  # nothing was left to do
    assert last.startswith("complete: nothing is missing; failed rows: 10 of pixels (2 damaged image, ")
    assert "10 of first (10 no pixels)" in last


def test_damaged_jpegs_and_unreadable_exif(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged JPEGs fail unless their dataset allows them; either way what was taken with a fault is counted."""
    whole = builders.encoded(builders.picture(1), "JPEG")
    (folder / "images" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "exif.jpg").write_bytes(whole[:2] + b"\xff\xe1\0\x0cExif\0\0junk" + whole[2:])
    strict = builders.dataset_entry("strict")
    allowing = builders.dataset_entry("allowing", "allow_damaged_jpeg = true")
    catalogue = small_catalogue(folder, datasets=strict + allowing)
    events = folder / "events.jsonl"
    options = ("--cache", folder / "cache", "--max-failed", "100%", "--events", events)
    assert run_extract(catalogue, *options, "--summary", folder / "summary.json") == 0
    output = printed(capsys)
    assert "failed in views: 2 damaged image\n" in output
    assert "noted in views, rows that are there: 1 damaged JPEG, allowed, 3 unreadable EXIF, ignored\n" in output
    noted = {"damaged JPEG, allowed": 1, "unreadable EXIF, ignored": 3}
    assert json.loads((folder / "summary.json").read_text())["stages"][1]["noted"] == noted
    cache = store.open(folder / "cache")
    told = [json.loads(line) for line in events.read_text().splitlines()]
    told = [event for event in told if event["event"] == "shard" and event["dataset"] == "allowing" and event["noted"]]
    paths = cache["allowing"].image_list()["path"].to_pylist()
    rows = {note: [paths[row] for row in rows] for event in told for note, rows in event["noted"].items()}
    assert rows == {"damaged JPEG, allowed": ["cut.jpg"], "unreadable EXIF, ignored": ["exif.jpg"]}
    statuses = {
        name: {row["path"]: row["status"] for row in cache[name].manifest().to_pylist()} for name in cache.datasets
    }
    assert (statuses["strict"]["cut.jpg"], statuses["strict"]["exif.jpg"]) == (FAILED, OK)
    assert set(statuses["allowing"].values()) == {OK}
    for datasets in (
        strict + allowing.replace("true", "false"),
        strict.replace("views", "allow_damaged_jpeg = true\nviews"),
    ):
        other = small_catalogue(folder, datasets=datasets)
        for stages in ("index", "views"):
            assert run_extract(other, *options, "--stages", stages) == 2
            assert "allow_damaged_jpeg" in capsys.readouterr().err


def test_running_again_changes_nothing_and_keeps_the_rates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (small_catalogue(folder), "--cache", folder / "cache", "--summary", folder / "summary.json")
    assert run_extract(*arguments) == 0
    before, summary = tree_of(folder / "cache"), json.loads((folder / "summary.json").read_text())
    assert run_extract(*arguments, "--events", folder / "events.jsonl") == 0
    assert tree_of(folder / "cache") == before
    again = json.loads((folder / "summary.json").read_text())
    assert again["stages"][1:3] == summary["stages"][1:3]
    assert [stage["rows"] for stage in again["stages"]] == [9, 18, 18, 0]
    assert again["complete"] is True
    assert again["bytes_per_row"] == {"pixels": 28 * 28 * 3 + 4, "first": 5 * 64 * 2 + 4}
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "end"
    assert not [event for event in events if event["event"] == "shard"]


def test_another_teacher_years_later_without_the_images(folder: Path) -> None:
    catalogue = small_catalogue(folder)
    assert run_extract(catalogue, "--cache", folder / "cache") == 0
    before = tree_of(folder / "cache")
    shutil.rmtree(folder / "images")
    builders.teacher_weights(folder / "second.safetensors", seed=2)
    catalogue.write_text(catalogue.read_text() + builders.teacher_entry("second").replace('["generic"]', "[]"))
    assert run_extract(catalogue, "--cache", folder / "cache", "--teachers", "second", "--stages", "features,seal") == 0
    after = tree_of(folder / "cache")
    assert before.items() <= after.items()
    assert store.open(folder / "cache")["pictures"].teachers == ("first", "second")
    assert len(store.open(folder / "cache")["pictures"].valid_rows(["first", "second"])) == 18


def test_outputs_that_cannot_be_stored_fail_their_rows_only(tmp_path: Path) -> None:
    for number, level in enumerate((0, 120, 250, 120)):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(builders.encoded(np.full((30, 30, 3), level, np.uint8)))
    (tmp_path / "spiky.safetensors").write_bytes(b"any")
    catalogue = small_catalogue(
        tmp_path,
        datasets=builders.dataset_entry("pictures", 'mode = "center"'),
        teachers=builders.teacher_entry("spiky", 'model = "tests.extract.own_teachers:spiky"'),
    )
    assert run_extract(catalogue, "--cache", tmp_path / "cache") == 0
    dataset = store.open(tmp_path / "cache")["pictures"]
    assert dataset.status("spiky").tolist() == [FAILED, OK, FAILED, OK]
    reasons = dataset.read_trailer("spiky", 0).errors
    assert "not finite" in reasons[0]
    assert "does not fit float16" in reasons[2]
    assert np.isfinite(dataset.read([1, 3], ["spiky"])["spiky"]).all()


def test_failing_wholesale_stops_the_job(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images" / "part2" / "zzz.png").write_bytes(b"broken")  # the last image: its shard is made last
    catalogue = small_catalogue(folder)
    assert run_extract(catalogue, "--cache", folder / "cache", "--max-failed", "0%") == 1
    output = printed(capsys)
    assert re.search(
        r"error: stopped: 2 of \d+ rows failed, more than --max-failed 0 allows.* reason: not an image", output
    )
    assert "missing: 1 of 3 shards of 'pictures/pixels' (4 rows)" in output
    assert run_extract(catalogue, "--cache", folder / "cache", "--max-failed", "1%") == 0
    assert run_extract(catalogue, "--cache", folder / "cache", "--max-failed", "2") == 2
    assert "--max-failed 2: expected a share such as 1% or 0.01" in printed(capsys)


def shards_made(events: Path) -> set[tuple[str, str, int]]:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return {(line["dataset"], line["array"], line["shard"]) for line in lines if line["event"] == "shard"}


def test_parts_share_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder, datasets=builders.dataset_entry("a") + builders.dataset_entry("b"))
    for part in range(2):
        events = folder / f"{part}.jsonl"
        assert run_extract(catalogue, "--cache", folder / "cache", "--shards", f"{part}/2", "--events", events) == 0
        assert "left to `codistill store seal" in printed(capsys)
    made = [shards_made(folder / f"{part}.jsonl") for part in range(2)]
    assert not made[0] & made[1]
    assert len(made[0]) == len(made[1]) == 6
    assert store.seal(folder / "cache").complete
    assert run_extract(catalogue, "--cache", folder / "cache", "--shards", "2/2") == 2
    assert "expected i/n with i from 0 to n - 1" in printed(capsys)


def test_what_is_stored_is_not_mixed_with_something_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder)
    assert run_extract(catalogue, "--cache", folder / "cache") == 0
    before = tree_of(folder / "cache")
    other_recipe = folder / "other.toml"
    other_recipe.write_text(catalogue.read_text().replace("shard_rows = 8", "shard_rows = 8\nseed = 3"))
    assert run_extract(other_recipe, "--cache", folder / "cache") == 2
    assert "recipe.seed: stored 0, asked 3" in printed(capsys)
    builders.teacher_weights(folder / "first.safetensors", seed=7)
    assert run_extract(catalogue, "--cache", folder / "cache") == 2
    assert "'pictures/first' exists and differs. identity.weights_sha256: stored" in printed(capsys)
    builders.teacher_weights(folder / "first.safetensors", seed=1)
    (folder / "images" / "part0" / "new.png").write_bytes(builders.encoded(builders.picture(1)))
    (folder / "images" / "part0" / "000.png").unlink()
    assert run_extract(catalogue, "--cache", folder / "cache") == 2
    output = printed(capsys)
    assert "1 gone (first 'part0/000.png'), 1 new (first 'part0/new.png')" in output
    assert "--stages views,features,seal" in output
    catalogue.write_text(catalogue.read_text().replace("views = 2", "views = 3"))
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "views") == 2
    assert "dataset 'pictures': views: stored 2, asked 3" in printed(capsys)
    assert tree_of(folder / "cache") == before


def test_everything_wrong_is_reported_before_work_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_images = builders.dataset_entry("b").replace("images", "none")
    catalogue = small_catalogue(folder, datasets=builders.dataset_entry("a") + without_images)
    (folder / "first.safetensors").unlink()
    options = ("--datasets", "a,c,b", "--stages", "index,featurs,features")
    assert run_extract(catalogue, "--cache", folder / "cache", *options) == 2
    output = printed(capsys)
    for expected in (
        "4 problems",
        "--datasets: 'c' is unknown; available: a, b",
        "--stages: 'featurs' is unknown (did you mean 'features'?)",
        f"teacher 'first': weights '{folder / 'first.safetensors'}': no such file",
        f"dataset 'b': root '{folder / 'none'}': no such folder",
    ):
        assert expected in output
    assert not (folder / "cache").exists()
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "views") == 2
    assert "no cache at" in printed(capsys)


def test_overwriting(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder)
    assert run_extract(catalogue, "--cache", folder / "cache") == 0
    (folder / "images" / "part0" / "000.png").write_bytes(builders.encoded(builders.picture(5)))
    builders.teacher_weights(folder / "first.safetensors", seed=7)
    before = tree_of(folder / "cache")
    assert run_extract(catalogue, "--cache", folder / "cache", "--overwrite") == 2
    assert "Name the datasets to recompute with --datasets" in printed(capsys)
    assert tree_of(folder / "cache") == before
    again = ("--cache", folder / "cache", "--overwrite", "--datasets", "pictures")
    assert run_extract(catalogue, *again, "--stages", "features,seal") == 0
    assert "deleted 'pictures/first'" in printed(capsys)
    pixels = "features.zarr/pictures/pixels/c.0.0.0.0"
    assert tree_of(folder / "cache")[pixels] == before[pixels]
    assert run_extract(catalogue, *again) == 0
    assert "deleted 'pictures'" in printed(capsys)
    assert tree_of(folder / "cache")[pixels] != before[pixels]


def test_dry_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder)
    before = tree_of(folder)
    assert run_extract(catalogue, "--cache", folder / "cache", "--dry-run") == 0
    output = printed(capsys)
    assert "pictures" in output
    assert "dry run: nothing was written" in output
    assert tree_of(folder) == before


def test_images_that_vanish_under_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder)
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "index") == 0
    (folder / "images").rename(folder / "unmounted")
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "views") == 1
    output = printed(capsys)
    assert f"could not be made: image folder '{folder / 'images'}' cannot be read" in output
    assert "missing: 3 of 3 shards of 'pictures/pixels'" in output
    (folder / "unmounted").rename(folder / "images")
    assert run_extract(catalogue, "--cache", folder / "cache") == 0


def test_target_that_cannot_be_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = small_catalogue(folder)
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "index") == 0
    opened = os.open

    def read_only(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and "cache" in str(path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "views") == 1
    assert "could not be made: [Errno 30] Read-only file system" in printed(capsys)
    monkeypatch.undo()
    assert run_extract(catalogue, "--cache", folder / "cache") == 0
