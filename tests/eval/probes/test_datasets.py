"""Every dataset layout on a miniature tree, and reading of its files."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.probes import datasets
from store.errors import InvalidInput, MissingFile
from tests.eval.probes.probing import camvid_tree, colour_folders, save

PIXELS = np.zeros((4, 6, 3), dtype=np.uint8)
LABELS = np.zeros((4, 6), dtype=np.uint8)


def ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        for name in ("ADE_2", "ADE_1"):
            save(root / "images" / split / f"{name}.jpg", PIXELS)
            save(root / "annotations" / split / f"{name}.png", LABELS)


def cityscapes(root: Path) -> None:
    for split, city in (("train", "ulm"), ("train", "aachen"), ("val", "munster")):
        name = f"{city}_000000_000019"
        save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", PIXELS)
        for kind in ("labelIds", "instanceIds", "color"):
            save(root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", LABELS)


def nyuv2(root: Path) -> None:
    for split in ("train", "test"):
        for number in (2, 10):
            save(root / f"nyu_{split}_rgb" / f"nyu_rgb_{number:04d}.png", PIXELS)
            save(root / f"{split}_labels_13" / f"new_nyu_class13_{number:04d}.png", LABELS)


def scannet(root: Path) -> None:
    for split, scenes in (("train", ("scene0001_00", "scene0000_00")), ("val", ("scene0002_00",))):
        (root / f"scannetv2_{split}.txt").write_text("\n".join(scenes) + "\n")
        for scene in scenes:
            save(root / scene / "color" / "000000.jpg", PIXELS)
            save(root / scene / "label" / "000000.png", LABELS)


TREES = {
    "ade20k": (ade20k, 150, "images/training/ADE_1.jpg", "annotations/training/ADE_1.png"),
    "cityscapes": (
        cityscapes,
        19,
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
    ),
    "nyuv2": (nyuv2, 13, "nyu_train_rgb/nyu_rgb_0002.png", "train_labels_13/new_nyu_class13_0002.png"),
    "scannet": (scannet, 20, "scene0000_00/color/000000.jpg", "scene0000_00/label/000000.png"),
}


@pytest.mark.parametrize("layout", TREES)
def test_layouts_pair_images_with_labels(layout: str, tmp_path: Path) -> None:
    build, classes, first_image, first_label = TREES[layout]
    build(tmp_path)
    train, test = (datasets.segmentation(layout, tmp_path, split) for split in ("train", "test"))
    assert (len(train.images), train.classes) == (2, classes)
    assert train.images[0].relative_to(tmp_path).as_posix() == first_image
    assert train.labels[0].relative_to(tmp_path).as_posix() == first_label
    assert not set(train.images) & set(test.images)
    assert sorted(train.lookup[train.lookup != datasets.IGNORED].tolist()) == list(range(classes))


def test_camvid_and_a_missing_label(tmp_path: Path) -> None:
    camvid_tree(tmp_path)
    dataset = datasets.segmentation("camvid", tmp_path, "test")
    assert (len(dataset.images), dataset.classes) == (4, 11)
    (tmp_path / "test" / "labels" / "0102.png").unlink()
    with pytest.raises(InvalidInput, match=r"1 of 8 files are missing: .*0102\.png"):
        datasets.segmentation("camvid", tmp_path, "test")
    with pytest.raises(InvalidInput, match="layout 'voc': expected one of"):
        datasets.segmentation("voc", tmp_path, "test")
    with pytest.raises(MissingFile, match="train/images"):
        datasets.segmentation("camvid", tmp_path / "test", "train")


@pytest.mark.parametrize(
    ("layout", "stored", "expected"),
    [
        ("ade20k", [0, 1, 150, 151, 255], [255, 0, 149, 255, 255]),
        ("cityscapes", [0, 7, 8, 9, 33, 255], [255, 0, 1, 255, 18, 255]),
        ("nyuv2", [0, 1, 13, 14], [255, 0, 12, 255]),
        ("scannet", [0, 1, 12, 13, 14, 16, 39, 40], [255, 0, 11, 255, 12, 13, 19, 255]),
        ("camvid", [0, 10, 11], [0, 10, 255]),
    ],
)
def test_stored_values_become_classes(layout: str, stored: list[int], expected: list[int], tmp_path: Path) -> None:
    camvid_tree(tmp_path)
    rules = datasets.LAYOUTS[layout]
    lookup = np.full(256, 255, dtype=np.uint8)
    lookup[list(rules.values)] = np.arange(len(rules.values))
    path = save(tmp_path / "labels.png", np.array([stored], dtype=np.uint8))
    np.testing.assert_array_equal(datasets.read_labels(path, lookup), [expected])
    if layout == "camvid":  # the lookup that the dataset brings is that one
        np.testing.assert_array_equal(datasets.segmentation(layout, tmp_path, "train").lookup, lookup)


def test_unpaired_numbers_are_refused(tmp_path: Path) -> None:
    nyuv2(tmp_path)
    (tmp_path / "train_labels_13" / "new_nyu_class13_0010.png").unlink()
    with pytest.raises(InvalidInput, match="number 10 has no partner"):
        datasets.segmentation("nyuv2", tmp_path, "train")


def test_nyud_lists_pairs_below_the_root(tmp_path: Path) -> None:
    save(tmp_path / "kitchen" / "rgb_1.png", PIXELS)
    save(tmp_path / "kitchen" / "depth_1.png", LABELS.astype(np.uint16) + 1500)
    listing = tmp_path / "nyu_train.txt"
    listing.write_text("/kitchen/rgb_1.png /kitchen/depth_1.png 518.8579\n\n")
    dataset = datasets.depth(tmp_path, "train")
    assert dataset.images == (tmp_path / "kitchen" / "rgb_1.png",)
    np.testing.assert_array_equal(datasets.read_depth_mm(dataset.labels[0]), np.full((4, 6), 1500, dtype=np.uint16))
    listing.write_text("../secret.png kitchen/depth_1.png\n")
    with pytest.raises(InvalidInput, match="line 1: expected IMAGE DEPTH below"):
        datasets.depth(tmp_path, "train")
    with pytest.raises(MissingFile, match=r"nyu_test\.txt"):
        datasets.depth(tmp_path, "test")


def test_identity_changes_with_files_labels_and_names(tmp_path: Path) -> None:
    colour_folders(tmp_path)
    before = datasets.identity(datasets.folders(tmp_path, "train"))
    assert before == datasets.identity(datasets.folders(tmp_path, "train"))
    (tmp_path / "train" / "leaf" / "000.png").rename(tmp_path / "train" / "sky" / "zzz.png")
    moved = datasets.identity(datasets.folders(tmp_path, "train"))
    save(tmp_path / "train" / "sky" / "zzz.png", np.zeros((40, 40, 3), dtype=np.uint8))
    changed = datasets.identity(datasets.folders(tmp_path, "train"))
    assert len({before["sha256"], moved["sha256"], changed["sha256"]}) == 3
    with pytest.raises(MissingFile, match="val"):
        datasets.folders(tmp_path, "val")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 no image")
    lookup = np.arange(256, dtype=np.uint8)
    with pytest.raises(InvalidInput, match=r"a\.jpg.*A probe needs all of its images"):
        datasets.read_image(tmp_path / "a.jpg")
    with pytest.raises(InvalidInput, match=r"a\.jpg': not an image"):
        datasets.read_labels(tmp_path / "a.jpg", lookup)
    with pytest.raises(InvalidInput, match="expected one channel"):
        datasets.read_labels(save(tmp_path / "rgb.png", PIXELS), lookup)
    with pytest.raises(InvalidInput, match="value 1163"):
        datasets.read_labels(save(tmp_path / "raw.png", LABELS.astype(np.uint16) + 1163), lookup)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for read in (datasets.read_image, lambda path: datasets.read_labels(path, lookup)):
        with pytest.raises(InvalidInput, match=r"pipe\.png': unreadable file: not a regular file but a named pipe"):
            read(tmp_path / "pipe.png")


def test_palettes_are_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 3, 11]], dtype=np.uint8), mode="P")
    image.putpalette([7, 8, 9] * 256)
    image.save(tmp_path / "palette.png")
    read = datasets.read_labels(tmp_path / "palette.png", np.arange(256, dtype=np.uint8))
    np.testing.assert_array_equal(read, [[0, 3, 11]])
