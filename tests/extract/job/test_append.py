"""Images that were added to a folder become a further part of the dataset; nothing that was stored changes."""

import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import store
from store import errors
from store.compact.compact import compact
from store.format.schema import FAILED, MISSING, OK
from store.inspection.export import export
from store.inspection.failures import failures
from store.inspection.info import inspect
from store.inspection.row_view import gather
from store.verify.report import check_and_repair
from store.verify.verify import verify
from tests.extract.builders import dataset_entry, encoded, picture, run_extract, small_catalogue, tree_of
from tests.extract.children import finish
from tests.points import Kill, Point, Record
from tests.thoroughness import some_of

IMAGES, LATER, VIEWS = 41, 11, 2
ROWS, ALL_ROWS = IMAGES * VIEWS, (IMAGES + LATER) * VIEWS
PART = "pictures--part-0001"
TEACHER = '[[teacher]]\nname = "{}"\nmodel = "tests.extract.own_teachers:projected"\nweights = "random"\n{}\n'
TEACHERS = TEACHER.format("quick", "ratio = 4") + TEACHER.format("plain", "")


def add_images(folder: Path, numbers: range) -> None:
    """Pictures whose names sort before, between and after those of other numbers."""
    (folder / "images").mkdir(exist_ok=True)
    for number in numbers:
        (folder / "images" / f"{number * 7 % 10}-{number:03d}.png").write_bytes(encoded(picture(number)))


def catalogue_in(folder: Path, teachers: str = TEACHERS, views: int = VIEWS) -> Path:
    options = f"views = {views}"
    return small_catalogue(folder, datasets=dataset_entry("pictures", options), teachers=teachers)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole cache `cache`, and images that came after it; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("begun")
    add_images(folder, range(IMAGES))
    assert run_extract(catalogue_in(folder), "--cache", folder / "cache") == 0
    add_images(folder, range(IMAGES, IMAGES + LATER))
    return folder


@pytest.fixture(scope="module")
def made(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the later images taken in; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("made") / "all"
    shutil.copytree(begun, folder)
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "cache", "--append") == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "all"))


def test_nothing_stored_is_touched_and_rows_go_on(begun: Path, made: Path) -> None:
    before, after = tree_of(begun / "cache"), tree_of(made / "cache")
    assert {name: after[name] for name in before} == before
    assert {name for name in set(after) - set(before) if PART not in name} == set()
    dataset, first = store.open(made / "cache")["pictures"], store.open(begun / "cache")["pictures"]
    assert store.open(made / "cache").datasets == ("pictures",)
    assert (first.rows, dataset.rows, len(dataset)) == (ROWS, ALL_ROWS, ALL_ROWS)
    assert dataset.images == len(dataset.image_list()) == IMAGES + LATER
    assert dataset.image_list()["path"].to_pylist()[:IMAGES] == first.image_list()["path"].to_pylist()
    assert dataset.valid_rows(["quick", "plain"]).tolist() == list(range(ALL_ROWS))
    manifest = dataset.manifest(["row", "image_index", "path", "dataset"])
    assert manifest["row"].to_pylist() == list(range(ALL_ROWS))
    assert manifest["image_index"].to_pylist() == [row // VIEWS for row in range(ALL_ROWS)]
    assert manifest["path"].to_pylist() == [p for p in dataset.image_list()["path"].to_pylist() for _ in range(VIEWS)]
    assert set(manifest["dataset"].to_pylist()) == {"pictures"}
    for condition in (pc.field("row") >= ROWS - 3, pc.field("view") == 1):
        expected = manifest_rows(dataset.manifest().filter(condition))
        assert manifest_rows(dataset.manifest(["row"], condition)) == expected != []
    assert verify(made / "cache").ok


def manifest_rows(table: object) -> list[int]:
    return list(table["row"].to_pylist())  # type: ignore[index]


def test_rows_of_all_parts_read_as_one(made: Path) -> None:
    """Also codes, which depend on the number of the row in the whole, and views, which do not depend on the part."""
    dataset = store.open(made / "cache")["pictures"]
    rows = np.array([ALL_ROWS - 1, 3, ROWS, ROWS - 1, 3])
    read = dataset.read(rows, ["pixels", "quick", "plain"])
    for place, row in enumerate(rows.tolist()):
        one = dataset.read([row], ["pixels", "quick", "plain"])
        assert all(np.array_equal(read[name][place], one[name][0], equal_nan=True) for name in one)
    truth, decoded = read["plain"].astype(np.float64), read["quick"].astype(np.float64)
    noise = ((truth - decoded) ** 2).sum(axis=(1, 2)) / (truth**2).sum(axis=(1, 2))
    assert noise.max() < 0.05
    raw = dataset.read(rows, ["quick"], raw=True)["quick"]
    np.testing.assert_array_equal(dataset.code("quick").decode(raw, rows), read["quick"])
    out, places = {"pixels": np.zeros((9, 28, 28, 3), np.uint8)}, np.array([8, 0, 4, 2, 6])
    dataset.read(rows, ["pixels"], out=out, places=places)
    np.testing.assert_array_equal(out["pixels"][places], read["pixels"])
    assert not out["pixels"][[1, 3, 5, 7]].any()
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again.read(rows, ["pixels"])["pixels"], read["pixels"])
    with pytest.raises(errors.InvalidInput, match=f"0..{ALL_ROWS - 1}"):
        dataset.read([ALL_ROWS], ["pixels"])


def test_the_dataset_is_what_one_extraction_of_all_images_gives(made: Path, tmp_path: Path) -> None:
    """Pixels of an image do not depend on the part that it is in, and statistics are those of all rows."""
    (tmp_path / "images").symlink_to(made / "images")
    teachers = TEACHER.format("plain", "")
    assert run_extract(catalogue_in(tmp_path, teachers), "--cache", tmp_path / "cache") == 0
    whole, joined = store.open(tmp_path / "cache")["pictures"], store.open(made / "cache")["pictures"]
    row_of = {key: row for row, key in enumerate(keys_of(whole))}
    there = np.array([row_of[key] for key in keys_of(joined)])
    pixels = joined.read(np.arange(ALL_ROWS), ["pixels"])["pixels"]
    np.testing.assert_array_equal(pixels, whole.read(there, ["pixels"])["pixels"])
    ours, theirs = joined.statistics("plain").patch, whole.statistics("plain").patch
    assert np.array_equal(ours.count, theirs.count)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-9)
    np.testing.assert_allclose(ours.std, theirs.std, rtol=1e-9)


def keys_of(dataset: store.Dataset) -> list[tuple[str, int]]:
    table = dataset.manifest(["path", "view"])
    return list(zip(table["path"].to_pylist(), table["view"].to_pylist(), strict=True))


def test_append_again_changes_nothing_and_without_it_growth_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_of(folder / "cache")
    command = (folder / "catalogue.toml", "--cache", folder / "cache")
    assert run_extract(*command, "--append") == 0
    assert "nothing to append: every image is in the cache" in capsys.readouterr().err
    assert run_extract(*command) == 0
    assert "52 images, 104 rows in 2 parts" in capsys.readouterr().err
    assert tree_of(folder / "cache") == before
    add_images(folder, range(70, 72))
    assert run_extract(*command) == 2
    refusal = capsys.readouterr().err
    assert "52 images, now there are 54: 2 new" in refusal
    assert "--append" in refusal
    assert run_extract(*command, "--append", "--dry-run") == 0
    assert "2 new images of 'pictures' would be taken in" in capsys.readouterr().out
    assert tree_of(folder / "cache") == before


def test_images_that_are_gone_or_changed_are_told_and_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = sorted((folder / "images").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes() + b"more")
    (folder / "images" / "z.png").write_bytes(b"no picture")
    before = tree_of(folder / "cache")
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "cache", "--append", "--max-failed", "1") == 0
    told = capsys.readouterr().err
    assert f"1 gone (first '{images[0].name}'), 1 of another size (first '{images[1].name}')" in told
    assert "1 new images are taken in as part 'pictures--part-0002': rows 104 to 105" in told
    dataset = store.open(folder / "cache")["pictures"]
    assert dataset.rows == ALL_ROWS + 2
    assert dataset.status("pixels").tolist() == [OK] * ALL_ROWS + [FAILED] * 2
    assert {name: tree_of(folder / "cache")[name] for name in before} == before


def test_a_part_without_a_teacher_lacks_its_rows_until_it_runs(begun: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "all"))
    command = (folder / "catalogue.toml", "--cache", folder / "cache")
    assert run_extract(*command, "--append", "--teachers", "plain") == 0
    cache = store.open(folder / "cache")
    dataset = cache["pictures"]
    assert dataset.teachers == ("plain", "quick")
    assert dataset.status("quick").tolist() == [OK] * ROWS + [MISSING] * (ALL_ROWS - ROWS)
    assert dataset.valid_rows(["quick"]).tolist() == list(range(ROWS))
    assert dataset.status_of("quick", [0, ROWS]).tolist() == [OK, MISSING]
    with pytest.raises(errors.RowsNotOk) as refused:
        dataset.read([0, ROWS, 1], ["quick"])
    assert list(refused.value.rows) == [ROWS]
    assert run_extract(*command) == 0
    assert (store.open(folder / "cache")["pictures"].status("quick") == OK).all()


def test_other_teachers_and_settings_are_refused_before_work(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "all"))
    before = tree_of(folder / "cache")
    for catalogue in (
        catalogue_in(folder, TEACHER.replace('"random"', '"random:3"').format("plain", "")),
        catalogue_in(folder, TEACHER.format("quick", "ratio = 2")),
        catalogue_in(folder, views=3),
    ):
        assert run_extract(catalogue, "--cache", folder / "cache", "--append") == 2
    stages = ("--stages", "views,features")
    assert run_extract(catalogue_in(folder), "--cache", folder / "cache", "--append", *stages) == 2
    overwrite = ("--overwrite", "--datasets", "pictures")
    assert run_extract(catalogue_in(folder), "--cache", folder / "cache", "--append", *overwrite) == 2
    assert "pass one of them" in capsys.readouterr().err
    assert tree_of(folder / "cache") == before


def test_killed_at_each_call_of_index_and_resumed(begun: Path, tmp_path: Path) -> None:
    """Images that come after the kill become a part of their own: what was begun is not changed any more."""
    folder = Path(shutil.copytree(begun, tmp_path / "all"))
    stages = ("--append", "--stages", "index")
    shutil.copytree(folder / "cache", folder / "undisturbed")
    record = Record(folder=folder / "undisturbed", file=folder / "calls.txt")
    assert finish(folder, "undisturbed", *stages, prepare=record) == 0
    whole = tree_of(folder / "undisturbed")
    for number in some_of(record.numbers(), every=8):
        killed = Path(shutil.copytree(folder / "cache", folder / f"killed-{number}"))
        kill = Kill(point=Point(folder=killed, number=number))
        assert finish(folder, killed.name, *stages, prepare=kill) == -signal.SIGKILL
        assert store.open(killed)["pictures"].rows in (ROWS, ALL_ROWS)
        assert run_extract(folder / "catalogue.toml", "--cache", killed, *stages) == 0
        assert {name: data for name, data in tree_of(killed).items() if ".tmp" not in name} == whole


def test_a_job_that_was_killed_while_it_appended_goes_on(begun: Path, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "all"))
    point = Point(folder=folder / "cache", names=("link",), part=f"{PART}/quick/codes/c.1.", number=1)
    assert finish(folder, "cache", "--append", prepare=Kill(point=point)) == -signal.SIGKILL
    assert finish(folder, "cache") == 0
    rows = np.arange(ALL_ROWS)
    names = ["pixels", "quick", "plain"]
    ours, theirs = (store.open(place / "cache")["pictures"].read(rows, names, raw=True) for place in (folder, made))
    assert all(np.array_equal(ours[name], theirs[name]) for name in names)


def test_a_leftover_of_images_that_are_gone_names_the_way_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_images(folder, range(80, 81))
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "cache", "--append", "--stages", "index") == 0
    (folder / "cache/features.zarr/pictures--part-0002/zarr.json").unlink()
    (folder / "images" / "0-080.png").unlink()
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "cache", "--append") == 2
    assert "codistill store delete" in capsys.readouterr().err


def test_parts_are_repaired_deleted_and_made_compact_like_any_dataset(folder: Path) -> None:
    cache = folder / "cache"
    rows, names = np.arange(ALL_ROWS), ["pixels", "quick", "plain"]
    before = store.open(cache)["pictures"].read(rows, names, raw=True)
    compacted = compact(cache, folder / "compact", ratio=4, teachers=["plain"]).cache
    noise = compacted["pictures"].read(rows, ["plain"])["plain"].astype(np.float64) - before["plain"]
    assert (noise**2).sum(axis=(1, 2)).max() / (before["plain"].astype(np.float64) ** 2).sum(axis=(1, 2)).min() < 0.1
    np.testing.assert_array_equal(compacted["pictures"].read(rows, ["quick"], raw=True)["quick"], before["quick"])

    for name in (f"{PART}/pixels/c.1.0.0.0", f"{PART}/quick/codes/c.1.0"):
        path = cache / "features.zarr" / name
        path.write_bytes(path.read_bytes()[:40] + b"damage" + path.read_bytes()[46:])
    options: dict[str, Any] = {"quick": False, "confirm": lambda _: True, "progress": False, "say": lambda _: None}
    outcome = check_and_repair(cache, catalogue=folder / "catalogue.toml", device="cpu", **options)
    assert not outcome.wrong
    after = store.open(cache)["pictures"].read(rows, names, raw=True)
    assert all(np.array_equal(before[name], after[name]) for name in names)

    opened = store.open(cache)
    opened["pictures"].delete_teacher("plain")
    assert store.open(cache)["pictures"].teachers == ("quick",)
    opened.delete_dataset(PART)
    assert store.open(cache)["pictures"].rows == ROWS
    assert run_extract(folder / "catalogue.toml", "--cache", cache, "--append") == 0
    opened.delete_dataset("pictures")
    assert store.open(cache).stored_names == ()
    assert not [name for name in tree_of(cache) if "pictures" in name]


def test_jpeg_pixels_and_codes_go_on_in_a_part(tmp_path: Path) -> None:
    add_images(tmp_path, range(IMAGES))
    options: dict[str, str] = {"datasets": dataset_entry("pictures", "views = 2"), "recipe": 'pixels = "jpeg"'}
    catalogue = small_catalogue(tmp_path, teachers=TEACHER.format("quick", "ratio = 4"), **options)
    cache = tmp_path / "cache"
    assert run_extract(catalogue, "--cache", cache) == 0
    before = tree_of(cache)
    add_images(tmp_path, range(IMAGES, IMAGES + LATER))
    assert run_extract(catalogue, "--cache", cache, "--append") == 0
    after = tree_of(cache)
    assert {name: after[name] for name in before} == before
    first, part = (store.open(cache).part(name) for name in ("pictures", PART))
    assert part.code("quick").spec == first.code("quick").spec
    assert part.array("pixels").document["codecs"] == first.array("pixels").document["codecs"]
    rows, names = np.array([ALL_ROWS - 1, 0, ROWS, ROWS - 1]), ["pixels", "quick"]
    dataset = store.open(cache)["pictures"]
    read = dataset.read(rows, names)
    for name, values in read.items():
        assert all(
            np.array_equal(values[place], dataset.read([row], [name])[name][0]) for place, row in enumerate(rows)
        )
    np.testing.assert_array_equal(part.read([0], ["pixels"])["pixels"][0], read["pixels"][2])
    path = cache / f"features.zarr/{PART}/pixels/c.1.0.0.0"
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"damage" + whole[46:])
    assert [problem.shard for problem in verify(cache).problems] == [1]
    outcome = check_and_repair(
        cache,
        quick=False,
        catalogue=catalogue,
        device="cpu",
        confirm=lambda _: True,
        progress=False,
        say=lambda _: None,
    )
    assert not outcome.wrong
    assert path.read_bytes() == whole


def test_commands_show_one_dataset(folder: Path) -> None:
    (folder / "images" / "z.png").write_bytes(b"no picture")
    assert run_extract(folder / "catalogue.toml", "--cache", folder / "cache", "--append", "--max-failed", "1") == 0
    cache = store.open(folder / "cache")
    dataset = cache["pictures"]
    (info,) = inspect(cache).datasets
    assert (info.name, info.rows) == ("pictures", ALL_ROWS + VIEWS)
    assert {array.name: (array.ok, array.failed, array.missing) for array in info.arrays} == dict.fromkeys(
        ["pixels", "plain", "quick"], (ALL_ROWS, VIEWS, 0)
    )
    failed = failures(cache).to_pylist()
    assert [(one["row"], one["path"], one["view"]) for one in failed] == [(104, "z.png", 0), (105, "z.png", 1)]
    rows = [1, ROWS + 1, ALL_ROWS + 1]
    shown = gather(dataset, rows).rows
    paths = dataset.image_list()["path"].to_pylist()
    assert [(row.row, row.path) for row in shown] == [(row, paths[row // VIEWS]) for row in rows]
    assert [row.record["row"] for row in shown] == rows
    assert str(shown[2].pixels).startswith("failed: not an image")
    export(dataset, range(ROWS - 2, ALL_ROWS + 2), ["pixels", "quick"], folder / "rows.parquet", skip=True)
    table = pq.read_table(folder / "rows.parquet")
    assert table["row"].to_pylist() == list(range(ROWS - 2, ALL_ROWS))
    assert table["path"].to_pylist() == [paths[row // VIEWS] for row in range(ROWS - 2, ALL_ROWS)]


def test_parts_of_another_dataset_are_not_joined(folder: Path) -> None:
    cache = store.open(folder / "cache")
    with pytest.raises(errors.InvalidInput, match="reserved"):
        cache.create_dataset(
            "a--part-0001", images=cache["pictures"].image_list(), group="g", split="val", mode="train", views=1
        )
    shutil.rmtree(folder / "cache/features.zarr/pictures")
    shutil.copytree(folder / f"cache/features.zarr/{PART}", folder / "cache/features.zarr/pictures")
    with pytest.raises(errors.Damaged):
        store.open(folder / "cache")["pictures"]
    assert not verify(folder / "cache", quick=True).ok
