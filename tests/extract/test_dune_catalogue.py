"""The shipped catalogue of the paper's datasets: sizes, groups, and each layout on a miniature tree."""

import pickle
from pathlib import Path

import pytest

import extract
from extract.catalogue import Catalogue, load_catalogue
from extract.sources import open_source

SHIPPED = Path(extract.__file__).parent / "catalogues" / "dune.toml"
# Beside what is taken: hidden twins as macOS leaves them, notes, and images where the layout has none.
FOLDERS = {
    "in19k": ("winter21_whole", ["n01440764/n01440764_10026.JPEG", "n15102894/n15102894_9.JPEG"], ["n0/a.xml"]),
    "mapillary": ("mapillary_sls/train_val", ["2mTz.jpg", "london/query/images/aa.jpg"], ["london/query/raw.csv"]),
    "mapillary-val": ("mapillary_sls/test", ["miami/database/images/z.jpg"], ["a.json"]),
    "gldv2": ("gldv2/train", ["0/a/b/0ab1.jpg", "class/1.jpg"], ["train.csv"]),
    "gldv2-val": ("gldv2/test", ["0/0/0/000.jpg"], ["test.csv"]),
    "bedlam": ("BEDLAM/training", ["20221010_scene/seq_000/0000.png", "20221012_closeup/seq_1/5.png"], ["a/b.jpg"]),
    "bedlam-val": ("BEDLAM/validation", ["20221011_closeup/seq_0/0.png", "20221018_x/1.png"], ["a/b.npz"]),
    "agora": ("AGORA/images/train", ["ag_trainset_1.png", "ag_trainset_2.png"], ["masks/m.png"]),
    "agora-val": ("AGORA/images/validation", ["ag_val_1.png"], ["masks/m.png"]),
    "cuffs": ("CUFFS", ["00000.png", "00001.jpg"], ["meta/1.png", "meta.json"]),
}
THEIRS = {
    "habitat": "Habitat512",
    "arkitscenes": "ARKitScenesV2",
    "blendedmvs": "BlendedMVS",
    "megadepth": "MegaDepthDense",
    "scannetpp": "ScanNetppV2",
    "co3d": "Co3d_v3",
    "mapfree": "Niantic",
    "wildrgb": "WildRgb",
    "virtualkitti": "VirtualKitti",
    "unreal4k": "Unreal4K",
    "tartanair": "TartanAir",
    "dl3dv": "DL3DV",
}


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setenv("CODISTILL_DATA", str(tmp_path))
    monkeypatch.setenv("CODISTILL_WEIGHTS", str(tmp_path / "weights"))
    return load_catalogue(SHIPPED)


def put(root: Path, names: list[str]) -> None:
    for name in names:
        for file in (root / name, (root / name).with_name(f"._{Path(name).name}")):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"image")


def test_sizes_are_the_papers(catalogue: Catalogue) -> None:
    train = [entry for entry in catalogue.dataset if entry.split == "train"]
    assert len(train) == 19
    assert sum(entry.expected_images or 0 for entry in train) == 20_717_472
    assert sum((entry.expected_images or 0) * entry.views for entry in train) == 25_802_303
    assert {entry.group for entry in train} == {"dinov2", "mast3r", "multihmr"}
    for entry in catalogue.dataset:
        if entry.split == "val":
            twin = catalogue.dataset_named(entry.name.removesuffix("-val"))
            assert (entry.group, entry.nature, entry.rotate) == (twin.group, twin.nature, twin.rotate)
            assert entry.mode == "center"
    assert sum(entry.split == "val" for entry in catalogue.dataset) == 17
    assert [(t.name, t.dtype, t.groups, t.ratio) for t in catalogue.teacher] == [
        (name, "float16", (name,), 16) for name in ("dinov2", "mast3r", "multihmr")
    ]


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(catalogue: Catalogue, tmp_path: Path, name: str) -> None:
    folder, taken, others = FOLDERS[name]
    put(tmp_path / folder, [*taken, *others])
    entry = catalogue.dataset_named(name)
    assert list(open_source(entry).enumerate().paths) == sorted(taken)
    for path in taken:
        assert entry.rotation_of(path) == (270 if "closeup" in path else 0)  # -90: clockwise by 90


@pytest.mark.parametrize("name", [f"{name}{split}" for name in THEIRS for split in ("", "-val")])
def test_pickled_lists(catalogue: Catalogue, tmp_path: Path, name: str) -> None:
    theirs = THEIRS[name.removesuffix("-val")]
    root = tmp_path / "mast3r" / theirs
    put(root, ["scene/0001.jpg", "scene/0002.jpg", "scene/not listed.jpg"])
    listed = tmp_path / "mast3r" / "lists" / f"{theirs}_{'val' if name.endswith('-val') else 'train'}_impaths.pkl"
    listed.parent.mkdir()
    listed.write_bytes(pickle.dumps(("/the/authors/own/root", ["scene/0002.jpg", "scene/0001.jpg"])))
    listing = open_source(catalogue.dataset_named(name)).enumerate()
    assert list(listing.paths) == ["scene/0001.jpg", "scene/0002.jpg"]


@pytest.mark.parametrize(("name", "file"), [("ubody", "ubody_intra_train.pkl"), ("ubody-val", "ubody_intra_test.pkl")])
def test_keys_of_a_pickled_dict(catalogue: Catalogue, tmp_path: Path, name: str, file: str) -> None:
    put(tmp_path / "UBody" / "videos", ["Magic_show/a.mp4/000001.png", "Movie/b/2.png", "Movie/b/3.png"])
    people = {"Movie/b/2.png": [{"bbox": (1.5, 2.0)}], "Magic_show/a.mp4/000001.png": []}
    (tmp_path / "UBody" / file).write_bytes(pickle.dumps(people))
    listing = open_source(catalogue.dataset_named(name)).enumerate()
    assert list(listing.paths) == ["Magic_show/a.mp4/000001.png", "Movie/b/2.png"]


def test_every_dataset_has_a_miniature(catalogue: Catalogue) -> None:
    lists = {f"{name}{split}" for name in THEIRS for split in ("", "-val")}
    assert {entry.name for entry in catalogue.dataset} == {*FOLDERS, *lists, "ubody", "ubody-val"}
