"""Folders become a catalogue that plan and run take as it is, whatever their names and whatever lies in them."""

import contextlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import store
from extract.__main__ import main as extract
from extract.catalogue import Catalogue, load_catalogue
from extract.init import teachers
from extract.init.__main__ import main
from extract.init.guess import dataset_name
from extract.sources import open_source
from extract.sources.base import UNKNOWN_BYTES
from extract.teachers.registry import WEIGHTS_VARIABLE
from store.errors import DecodeError
from tests.extract.builders import encoded, picture

HOSTILE = [
    'qu"ote',
    "back\\slash",
    "new\nline",
    "[set] {a,b} *?",
    "~home",
    "-dash",
    "# comment",
    "élan vital",
    "照片",
    "images",
    "tab\tbell\x07del\x7f",
    "a--part-0001",
    "'''",
]


def put(path: Path, seed: int = 0, *, height: int = 64, width: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    path.write_bytes(encoded(picture(seed, height=height, width=width), kind))


def init(*folders: Path, out: Path, options: tuple[str, ...] = ()) -> Catalogue:
    """Write a catalogue of folders and load it."""
    assert main([*map(str, folders), "--out", str(out), *options]) == 0
    return load_catalogue(out)


def listed(catalogue: Catalogue) -> dict[str, int]:
    """Number of images that extraction finds, by dataset; they are those that the catalogue expects."""
    counts = {entry.name: len(open_source(entry).enumerate()) for entry in catalogue.dataset}
    assert counts == {entry.name: entry.expected_images for entry in catalogue.dataset}
    return counts


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without any weight file, in a folder of its own."""
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    wheels = [teacher for teacher in teachers.known_teachers() if not teacher.wheel]
    monkeypatch.setattr(teachers, "known_teachers", lambda: tuple(wheels))
    monkeypatch.chdir(tmp_path)


def test_hostile_names(tmp_path: Path) -> None:
    """Of the folders given, of folders of splits and classes within them, and of files."""
    for number, name in enumerate(HOSTILE):
        put(tmp_path / name / "train" / name / f"{name}.jpg", number)
        put(tmp_path / name / "val" / f"x{name}.png", number)
        put(tmp_path / name / name / "loose.jpg", number)
    catalogue = init(*(Path(name) if name != "-dash" else tmp_path / name for name in HOSTILE), out=Path("c.toml"))
    counts = listed(catalogue)
    assert len(counts) == 3 * len(HOSTILE)
    assert set(counts.values()) == {1}
    assert all(dataset_name(entry.group) for entry in catalogue.dataset)
    for entry in catalogue.dataset:
        (path,) = open_source(entry).enumerate().paths
        assert (entry.root / path).is_file()


def test_names_that_no_catalogue_can_hold_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "a$HOME" / "x.jpg")
    assert main(["a$HOME"]) == 2
    assert "take the '$' for a variable" in capsys.readouterr().err
    folder = tmp_path / "\udcff"
    put(folder / "x.jpg")
    assert main([str(folder)]) == 2
    assert "not UTF-8" in capsys.readouterr().err
    put(tmp_path / "good" / "\udcfe.jpg")
    put(tmp_path / "good" / "x.jpg")
    put(tmp_path / "good" / "\udcfd" / "x.jpg")
    assert listed(init(Path("good"), out=Path("c.toml"))) == {"good": 3}
    assert "2 names are not UTF-8: rename them, or these images fail" in capsys.readouterr().out


def test_kinds_splits_and_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        put(tmp_path / "classes" / f"class {number % 2}" / f"{number}.jpg", number)
        put(tmp_path / "classes" / "train" / f"{number}.jpg", number)  # of trains
        put(tmp_path / "two" / "cats" / "Training" / f"{number}.JPG", number)
        put(tmp_path / "two" / "cats" / "validation" / "deep" / f"{number}.png", number)
        put(tmp_path / "two" / "dogs" / f"{number}.jpg", number)
        put(tmp_path / "rest" / f"{number}.jpg", number)
        put(tmp_path / "rest" / "depth" / f"{number}.png", number)
        put(tmp_path / "rest" / "held_out" / f"{number}.jpg", number)
    put(tmp_path / "rest" / ".hidden" / "x.jpg")
    (tmp_path / "rest" / "more.zip").write_bytes(b"PK")
    (tmp_path / "tars").mkdir()
    for name in ("train-000.tar", "train-001.tar", "val-000.tar"):
        with tarfile.open(tmp_path / "tars" / name, "w") as archive:
            member = tarfile.TarInfo("a.jpg")
            member.size = len(content := encoded(picture(1), "JPEG"))
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    images = [{"bytes": encoded(picture(number), "JPEG"), "path": f"{number}.jpg"} for number in range(3)]
    for split in ("train", "test"):
        table = pa.table({"label": [0, 1, 2], "picture": images})
        pq.write_table(table, tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    folders = [Path(name) for name in ("classes", "two", "rest", "tars", "hub")]
    catalogue = init(*folders, out=Path("new/c.toml"))
    assert {entry.name: (entry.group, entry.split) for entry in catalogue.dataset} == {
        "classes": ("classes", "train"),
        "cats": ("cats", "train"),
        "cats-validation": ("cats", "val"),
        "dogs": ("dogs", "train"),
        "rest": ("rest", "train"),
        "rest-held_out": ("rest", "val"),
        "tars": ("tars", "train"),
        "tars-val": ("tars", "val"),
        "hub": ("hub", "train"),
        "hub-test": ("hub", "val"),
    }
    assert listed(catalogue)["classes"] == 8
    assert catalogue.dataset_named("hub").image_column == "picture"
    assert catalogue.recipe.image_size == 56
    text = Path("new/c.toml").read_text()
    assert "3 folders, as of an ImageFolder: class 0, class 1, train." in text
    assert '# exclude = ["held_out/**", "**/depth/**"]' in text
    told = capsys.readouterr().out
    assert "1 archives are left out: only plain tar files are read in place, first 'more.zip'" in told
    assert "codistill extract plan new/c.toml --cache new/cache" in told


def test_plan_and_run_take_it_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        put(tmp_path / "photos" / f"{number}.jpg", number)
    catalogue = init(Path("photos"), out=Path("c.toml"))
    assert [(entry.name, entry.random_seed) for entry in catalogue.teacher] == [("trial", 0)]
    assert "# first_view = 8" in Path("c.toml").read_text()
    warning = "random weights of 'trial': for trials of a pipeline"
    assert extract(["plan", "c.toml", "--cache", "cache", "--no-calibrate"]) == 0
    assert warning in capsys.readouterr().out
    assert extract(["run", "c.toml", "--cache", "cache", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert warning in told.out
    assert warning in told.err
    teacher = store.open("cache")["photos"].teacher("trial")
    assert (teacher.random_weights, teacher.random_note) == (True, "random weights, seed 0")
    assert store.open("cache")["photos"].valid_rows(["trial"]).tolist() == list(range(24))


def test_an_existing_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "photos" / "x.jpg")
    Path("c.toml").write_text("mine")
    assert main(["photos", "--out", "c.toml"]) == 2
    assert "Pass --overwrite" in capsys.readouterr().err
    assert Path("c.toml").read_text() == "mine"
    init(Path("photos"), out=Path("c.toml"), options=("--overwrite",))


def test_folders_without_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "photos" / "x.jpg")
    (tmp_path / "nothing" / "deep").mkdir(parents=True)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "texts" / "b.tar").write_bytes(b"no tar")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "texts" / "c.parquet")
    assert main(["photos", "nothing", "texts", "--out", "c.toml"]) == 2
    refusal = capsys.readouterr().err
    assert "no images in 'nothing': 0 other files" in refusal
    assert "tar: tar 'b.tar'" in refusal
    assert "parquet: no column of 'c.parquet' holds the bytes of images" in refusal
    assert main(["photos", "./photos/../photos"]) == 2
    assert "taken twice" in capsys.readouterr().err
    assert main(["absent"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not Path("c.toml").exists()


def test_it_needs_no_torch_and_takes_weights_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "photos" / "x.jpg")
    code = (
        "import sys; from extract.init.__main__ import main; code = main(['photos']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit(code)"], check=True, cwd=tmp_path, env=None)
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "dinov2_vitl14_reg4_pretrain.pth"
    file.write_bytes(b"weights")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    catalogue = init(Path("photos"), out=Path("c.toml"))
    assert [(entry.name, entry.weights) for entry in catalogue.teacher] == [("dinov2", file)]


def test_what_will_be_refused_is_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pipes and links that lead out of the dataset's root are listed by extraction, and their rows fail."""
    put(tmp_path / "img" / "train" / "a.jpg")
    put(tmp_path / "img" / "pool" / "c.jpg")
    put(tmp_path / "img" / "val" / "v.jpg")
    train = tmp_path / "img" / "train"
    os.mkfifo(train / "pipe.jpg")
    (train / "inside.jpg").symlink_to("a.jpg")
    (train / "beside.jpg").symlink_to("../pool/c.jpg")
    (train / "nowhere.jpg").symlink_to("absent.jpg")
    (tmp_path / "img" / "farm").mkdir()
    (tmp_path / "img" / "farm" / "of_rest.jpg").symlink_to("../pool/c.jpg")  # below the root of the rest
    (tmp_path / "far" / "x").mkdir(parents=True)
    (tmp_path / "far" / "x" / "out.jpg").symlink_to(train / "a.jpg")
    put(tmp_path / "far" / "val" / "v.jpg")
    catalogue = init(Path("img"), Path("far"), out=Path("c.toml"))
    assert listed(catalogue) == {"img": 5, "img-rest": 2, "img-val": 1, "far-val": 1}
    told = capsys.readouterr().out
    assert "'img': 3 more images are links that lead nowhere or out of the dataset's root, or no regular files" in told
    assert [line.split()[:4] for line in told.splitlines()][1:4] == [
        ["img", "img", "train", "2"],
        ["img-rest", "img", "train", "2"],
        ["img-val", "img", "val", "1"],
    ]
    assert "left out: its 1 images are links that lead nowhere" in told
    for entry in catalogue.dataset:
        source, opened = open_source(entry), 0
        for path in source.enumerate().paths:
            with contextlib.suppress(DecodeError):
                opened += bool(source.read(path, UNKNOWN_BYTES))
        assert opened == {"img": 2}.get(entry.name, entry.expected_images)


def test_videos_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.MP4").write_bytes(b"video")
    assert main(["clips"]) == 2
    assert "no images in 'clips': 1 videos are not read: write their frames as images" in capsys.readouterr().err
    put(tmp_path / "clips" / "x.jpg")
    init(Path("clips"), out=Path("c.toml"))
    assert "1 videos are not read: write their frames" in capsys.readouterr().out
