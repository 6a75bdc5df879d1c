"""Labelled datasets as they are distributed: files of a sample, meaning of labels, reading of images and labels.

Files that each layout expects below its root:

    folders     SPLIT/CLASS/*.jpg                     classification; classes are the sorted names of train's folders
    ade20k      images/SPLIT/*.jpg + annotations/SPLIT/*.png      SPLIT training, validation
    cityscapes  leftImg8bit/SPLIT/CITY/*_leftImg8bit.png + gtFine/SPLIT/CITY/*_gtFine_labelIds.png
    nyuv2       nyu_SPLIT_rgb/*N.png + SPLIT_labels_13/*N.png     SPLIT train, test; paired by the number N in the name
    scannet     SCENE/color/*.jpg + SCENE/label/*.png (NYU40 ids), scenes listed in scannetv2_SPLIT.txt
    camvid      SPLIT/images/* + SPLIT/labels/*.png
    nyud        nyu_SPLIT.txt, lines "image depth [focal length]"; 16-bit depth in mm
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from extract.views.decode import decode
from store.common.regular_files import open_regular
from store.common.text import some
from store.errors import DecodeError, InvalidInput, MissingFile, RefusedFile

Split = Literal["train", "test"]
IGNORED = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")

# Cityscapes' label ids of the 19 evaluated classes, and ScanNet's 20 in NYU40 ids; position = class.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
SCANNET_IDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Images with one class each.

    Attributes:
        root: folder that all paths lie in.
        images: paths of the images.
        labels: position in `classes` for each image.
        classes: names of the classes. Only splits of the same `classes` can be compared; see `with_classes_of`.
    """

    root: Path
    images: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Images with one label image each: classes, or depth.

    Attributes:
        root: folder that all paths lie in.
        images: paths of the source images.
        labels: paths of the label images, in the same order.
        classes: number of classes; 0 for depth.
        lookup: uint8 (256,), stored value -> class or `IGNORED`; empty for depth.
    """

    root: Path
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    classes: int
    lookup: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LabelLayout:
    """Layout of a segmentation dataset.

    Attributes:
        splits: name of each split in the dataset.
        values: stored label values, in class order.
        pairs: function of the root and the name of a split that lists (image, label image).
    """

    splits: dict[Split, str]
    values: tuple[int, ...]
    pairs: Callable[[Path, str], list[tuple[Path, Path]]]


def folders(root: Path, split: str) -> Folders:
    """List a classification dataset of one folder a class; hidden folders and those without images are no classes.

    Args:
        root: folder of the dataset.
        split: name of the folder of the split.

    Raises:
        MissingFile: no such split, or no image in it.
    """
    entries = sorted(entry for entry in _entries(root / split) if entry.is_dir() and not entry.name.startswith("."))
    by_class = {entry.name: images for entry in entries if (images := _images(entry))}
    if not by_class:
        raise MissingFile(f"no image in '{root / split}': expected CLASS/IMAGE below it")
    return Folders(
        root=root,
        images=tuple(image for images in by_class.values() for image in images),
        labels=tuple(label for label, images in enumerate(by_class.values()) for _ in images),
        classes=tuple(by_class),
    )


def with_classes_of(train: Folders, test: Folders) -> Folders:
    """Return the test split with its classes numbered as in the training split, by name; it may lack some.

    Raises:
        InvalidInput: test images of classes without training image, which no probe could get right; they are named.
    """
    numbers = {name: number for number, name in enumerate(train.classes)}
    unknown = [f"'{name}'" for name in test.classes if name not in numbers]
    if unknown:
        raise InvalidInput(
            f"test split below '{test.root}': {len(unknown)} of {len(test.classes)} classes have no training image: "
            f"{some(unknown)}. Expected classes of the training split: {some(f'{name!r}' for name in train.classes)}. "
            "Rename the folders, or leave them out of the test split"
        )
    labels = tuple(numbers[test.classes[label]] for label in test.labels)
    return replace(test, labels=labels, classes=train.classes)


def segmentation(layout: str, root: Path, split: Split) -> Dense:
    """List a segmentation dataset.

    Args:
        layout: one of `LAYOUTS`.
        root: folder that the layout's paths start at.
        split: `train`, or `test` for the split that figures are reported on.

    Raises:
        InvalidInput: unknown layout, or images without labels; some are named.
        MissingFile: no image in the split.
    """
    if layout not in LAYOUTS:
        raise InvalidInput(f"layout '{layout}': expected one of {', '.join(LAYOUTS)}")
    rules = LAYOUTS[layout]
    pairs = rules.pairs(root, rules.splits[split])
    lookup = np.full(256, IGNORED, dtype=np.uint8)
    lookup[list(rules.values)] = np.arange(len(rules.values))
    return _dense(root, pairs, classes=len(rules.values), lookup=lookup, subject=f"{layout} {rules.splits[split]}")


def depth(root: Path, split: Split) -> Dense:
    """List NYUd: pairs of image and depth from `nyu_train.txt` or `nyu_test.txt`.

    Args:
        root: folder of the lists, which their paths start at.
        split: `train` or `test`.

    Raises:
        InvalidInput: a line that is no pair of paths below `root`, or missing files; some are named.
        MissingFile: no list.
    """
    listing = root / f"nyu_{split}.txt"
    pairs = []
    for number, line in enumerate(_text(listing).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        names = [PurePosixPath(field.lstrip("/")) for field in fields[:2]]
        if len(names) < 2 or any(".." in name.parts for name in names):
            raise InvalidInput(f"'{listing}' line {number}: expected IMAGE DEPTH below '{root}', found {line!r}")
        pairs.append((root / names[0], root / names[1]))
    return _dense(root, pairs, classes=0, lookup=np.empty(0, dtype=np.uint8), subject=f"nyud {split}")


def identity(dataset: Folders | Dense) -> dict[str, Any]:
    """Return JSON that a dataset's features depend on: a digest of relative paths, file sizes and labels."""
    digest = hashlib.sha256()
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        line = f"{image.relative_to(dataset.root).as_posix()} {image.stat().st_size}"
        if isinstance(label, Path):
            line += f" {label.relative_to(dataset.root).as_posix()} {label.stat().st_size}"
        else:
            line += f" {label}"
        digest.update(line.encode() + b"\n")
    lookup = dataset.lookup.tolist() if isinstance(dataset, Dense) else []
    return {"samples": len(dataset.images), "sha256": digest.hexdigest(), "lookup": lookup}


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) RGB, decoded as for extraction."""
    try:
        with open_regular(path) as file:
            return decode(file.read())
    except OSError as error:
        raise MissingFile(f"image '{path}': cannot be read ({error.strerror})") from None
    except (DecodeError, RefusedFile) as error:
        raise InvalidInput(f"image '{path}': {error}. A probe needs all of its images: replace it") from None


def read_labels(path: Path, lookup: np.ndarray) -> np.ndarray:
    """Read a label image as uint8 (H, W) classes, by `lookup` (256,) from stored values; palettes are not applied."""
    stored = _integers(path)
    if stored.size and stored.max() > 255:
        raise InvalidInput(f"labels '{path}': value {stored.max()}, expected at most 255. Are they raw instance ids?")
    return np.asarray(lookup[stored])


def read_depth_mm(path: Path) -> np.ndarray:
    """Read a 16-bit depth image as uint16 (H, W) in mm, 0 where unknown."""
    stored = _integers(path)
    if stored.size and stored.max() > np.iinfo(np.uint16).max:
        raise InvalidInput(f"depth '{path}': value {stored.max()}, expected 16 bits")
    return stored.astype(np.uint16)


def _dense(root: Path, pairs: list[tuple[Path, Path]], *, classes: int, lookup: np.ndarray, subject: str) -> Dense:
    if not pairs:
        raise MissingFile(f"{subject}: no image below '{root}'. Its layout is described in docs/evaluation-probes.md")
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        shown = ", ".join(f"'{path}'" for path in missing[:3])
        raise InvalidInput(f"{subject}: {len(missing)} of {2 * len(pairs)} files are missing: {shown}")
    images, labels = zip(*pairs, strict=True)
    return Dense(root=root, images=images, labels=labels, classes=classes, lookup=lookup)


def _ade20k(root: Path, split: str) -> list[tuple[Path, Path]]:
    return [(p, root / "annotations" / split / f"{p.stem}.png") for p in _images(root / "images" / split)]


def _cityscapes(root: Path, split: str) -> list[tuple[Path, Path]]:
    pairs = []
    for city in sorted(entry for entry in _entries(root / "leftImg8bit" / split) if entry.is_dir()):
        for image in sorted(city.glob("*_leftImg8bit.png")):
            name = image.name.replace("_leftImg8bit", "_gtFine_labelIds")
            pairs.append((image, root / "gtFine" / split / city.name / name))
    return pairs


def _nyuv2(root: Path, split: str) -> list[tuple[Path, Path]]:
    images = _by_number(_images(root / f"nyu_{split}_rgb"))
    labels = _by_number(_images(root / f"{split}_labels_13"))
    unpaired = sorted(set(images) ^ set(labels))
    if unpaired:
        raise InvalidInput(f"nyuv2 {split}: number {unpaired[0]} has no partner ({len(unpaired)} have none)")
    return [(images[number], labels[number]) for number in sorted(images)]


def _scannet(root: Path, split: str) -> list[tuple[Path, Path]]:
    scenes = _text(root / f"scannetv2_{split}.txt").split()
    return [(p, root / s / "label" / f"{p.stem}.png") for s in sorted(scenes) for p in _images(root / s / "color")]


def _camvid(root: Path, split: str) -> list[tuple[Path, Path]]:
    return [(p, root / split / "labels" / f"{p.stem}.png") for p in _images(root / split / "images")]


LAYOUTS: dict[str, LabelLayout] = {
    # Value 0 is "other" in ADE20K and NYUv2; CamVid's 11 is void.
    "ade20k": LabelLayout(
        splits={"train": "training", "test": "validation"}, values=tuple(range(1, 151)), pairs=_ade20k
    ),
    "cityscapes": LabelLayout(splits={"train": "train", "test": "val"}, values=CITYSCAPES_IDS, pairs=_cityscapes),
    "nyuv2": LabelLayout(splits={"train": "train", "test": "test"}, values=tuple(range(1, 14)), pairs=_nyuv2),
    "scannet": LabelLayout(splits={"train": "train", "test": "val"}, values=SCANNET_IDS, pairs=_scannet),
    "camvid": LabelLayout(splits={"train": "train", "test": "test"}, values=tuple(range(11)), pairs=_camvid),
}


def _by_number(paths: Iterable[Path]) -> dict[int, Path]:
    by_number = {}
    for path in paths:
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise InvalidInput(f"'{path}': expected a number in its name, which pairs images with labels")
        by_number[int(digits[-1])] = path
    return by_number


def _images(folder: Path) -> list[Path]:
    """List the image files of a folder in order of the UTF-8 bytes of their names, hidden ones left out."""
    images = [p for p in _entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return sorted(images, key=lambda path: path.name.encode())


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise MissingFile(f"folder '{folder}': cannot be read ({error.strerror})") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFile(f"list '{path}': cannot be read ({error.strerror})") from None


def _integers(path: Path) -> np.ndarray:
    try:
        with open_regular(path) as file, Image.open(file) as image:
            stored = np.array(image)
    except UnidentifiedImageError:
        raise InvalidInput(f"labels '{path}': not an image") from None
    except RefusedFile as error:
        raise InvalidInput(f"labels '{path}': {error}") from None
    except (OSError, SyntaxError) as error:
        raise MissingFile(f"labels '{path}': cannot be read ({error})") from None
    if stored.ndim != 2 or stored.dtype.kind not in "uib" or (stored.dtype.kind == "i" and stored.min(initial=0) < 0):
        raise InvalidInput(
            f"labels '{path}': expected one channel of whole numbers, found {stored.dtype} {stored.shape}"
        )
    return stored.astype(np.uint8) if stored.dtype.kind == "b" else stored
