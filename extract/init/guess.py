"""Guess datasets from what lies in folders: groups, splits, kinds of sources, names."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from extract.init.folders import FolderContents, Tree, is_within
from store.format import schema
from store.format.parts import whole_name

Split = Literal["train", "val"]
Kind = Literal["images", "tar", "parquet"]

SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval", "train_val"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "test", "testing", "held_out", "heldout"), "val"),
}
SPLIT_OF_FILE = re.compile(r"(?i)(train|training|val|valid|validation|dev|test|testing)(?=[-_.0-9])")
NO_PHOTOGRAPHS = ("annotation", "depth", "disparity", "flow", "label", "mask", "normal", "seg", "semantic")
CLASS_FOLDERS = 2  # at least so many folders of images side by side are taken for classes
GLOB_CHARACTERS = re.compile(r"([*?\[{])")


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One dataset that was found.

    Attributes:
        name: name in the cache, unique among the guesses.
        group: group of datasets.
        split: "train" or "val".
        kind: how its images are stored.
        root: folder of the images.
        patterns: globs of its images, tar or Parquet files below the root.
        exclude: globs of what belongs to other datasets.
        files: number of images, tar or Parquet files, as extraction lists them.
        refused: number of images among them that extraction will not open: links out of the root or to nothing, pipes.
        sample: paths of some images below the root, or of all tar or Parquet files.
        classes: names of class folders, as of an ImageFolder; empty if it has none.
        doubtful: folders whose names say that they hold masks, depth and the like, with their images.
        suffixes: number of images by suffix; empty for tar and Parquet.
    """

    name: str
    group: str
    split: Split
    kind: Kind
    root: Path
    patterns: tuple[str, ...]
    exclude: tuple[str, ...]
    files: int
    sample: tuple[str, ...]
    refused: int = 0
    classes: tuple[str, ...] = ()
    doubtful: dict[str, int] = field(default_factory=dict)
    suffixes: dict[str, int] = field(default_factory=dict)


def guess(tree: Tree) -> list[Guess]:
    """Guess the datasets of a folder; their names are not unique yet.

    A folder with folders called train, val and the like is one group with these splits; so is each of its folders if
    these have such folders in turn. Any other folder is one group. What lies beside a folder of training images has
    the name of the group with `-rest`.
    """
    found: list[Guess] = []
    for unit in _units(tree):
        group = _name_of(tree.root, unit)
        splits = _split_folders(tree, unit)
        rest = "rest" if "train" in splits.values() else ""
        of_unit: list[Guess] = []
        for folder, split in splits.items():
            of_unit += _of_kinds(tree, folder, group=group, split=split, within=PurePosixPath(folder).name)
        of_unit += _of_kinds(tree, unit, group=group, split="train", suffix=rest, without=list(splits))
        found += sorted(of_unit, key=lambda one: one.split != "train")
    return found


def with_unique_names(guesses: Iterable[Guess]) -> list[Guess]:
    """Number the guesses that have one name."""
    taken: set[str] = set()
    unique = []
    for one in guesses:
        numbers = (f"{one.name}-{number}" for number in range(2, 10**6))
        name = one.name if one.name not in taken else next(name for name in numbers if name not in taken)
        taken.add(name)
        unique.append(replace(one, name=name))
    return unique


def escaped(path: str) -> str:
    """Return the glob that matches one path and nothing else."""
    return GLOB_CHARACTERS.sub(r"[\1]", path)


def dataset_name(text: str) -> str:
    """Return the nearest name that a dataset may have; empty if nothing of the text is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")
    return name if name and schema.is_name(name) and whole_name(name) is None else ""


def _units(tree: Tree) -> list[str]:
    """Return the folders that are groups of their own."""
    if _split_folders(tree, ""):
        return [""]
    children = tree.children("")
    with_splits = [child for child in children if _split_folders(tree, child)]
    return [*children, ""] if with_splits else [""]


def _split_folders(tree: Tree, folder: str) -> dict[str, Split]:
    """Return the filled folders directly below one whose names are those of splits.

    `train` alone beside others is taken for a class: trains are photographed, too.
    """
    filled = [child for child in tree.children(folder) if any(_is_filled(c) for _, c in tree.below(child))]
    names = {child: SPLITS.get(PurePosixPath(child).name.lower()) for child in filled}
    splits: dict[str, Split] = {child: split for child, split in names.items() if split is not None}
    is_class = set(splits.values()) == {"train"} and len(filled) > len(splits)
    return {} if is_class else splits


def _is_filled(contents: FolderContents) -> bool:
    return bool(contents.suffixes or contents.tars or contents.parquets)


def _name_of(root: Path, unit: str) -> str:
    """Return the name of a group: its folder's, or if that cannot be one that of the folder above, or `dataset`."""
    folder = root.resolve() / unit
    names = (dataset_name(part) for part in (folder.name, f"{folder.parent.name}-{folder.name}", folder.parent.name))
    return next((name for name in names if name), "dataset")


def _of_kinds(
    tree: Tree,
    folder: str,
    *,
    group: str,
    split: Split,
    within: str = "",
    suffix: str = "",
    without: Sequence[str] = (),
) -> Iterator[Guess]:
    """Yield a guess for each kind of source in a folder.

    Args:
        tree: listed folder.
        folder: path below the tree's root.
        group: name of the group.
        split: split of what is there, unless file names say otherwise.
        within: name of the split's folder; empty for none.
        suffix: what the name has behind the group's; told by `within` if empty.
        without: folders that belong to other guesses.
    """
    others = [*without, *(unit for unit in _units(tree) if unit and not folder)]
    parts = _parts(tree, folder, without=others)
    exclude = tuple(f"{escaped(other.removeprefix(folder).removeprefix('/'))}/**" for other in others)
    is_plain = split == "train" and within.lower() in ("", "train", "training")
    suffix = suffix or ("" if is_plain else _suffix(within))
    name = f"{group}-{suffix}" if suffix else group
    suffixes = sum((contents.suffixes for contents in parts.values()), Counter[str]())
    if suffixes:
        yield Guess(
            group=group,
            root=tree.root / folder,
            name=name,
            split=split,
            kind="images",
            patterns=(_pattern(suffixes),),
            exclude=exclude,
            files=sum(suffixes.values()),
            refused=sum(contents.refused(folder) for contents in parts.values()),
            classes=_classes(parts),
            doubtful=_doubtful(parts),
            suffixes=dict(suffixes.most_common()),
            sample=tuple(f"{path}/{name}" if path else name for path, c in parts.items() for name in c.images),
        )
    for kind, paths in (("tar", _paths(parts, "tars")), ("parquet", _paths(parts, "parquets"))):
        for file_split, files in _by_split(paths, split if within else None).items():
            of_split = SPLITS.get(file_split, split)
            train = of_split == "train"
            yield Guess(
                group=group,
                root=tree.root / folder,
                name=(name if within or train else f"{group}-{_suffix(file_split)}") + (f"-{kind}" if suffixes else ""),
                split=of_split,
                kind="tar" if kind == "tar" else "parquet",
                patterns=_file_patterns(files, all_of=paths, prefix=file_split),
                exclude=exclude,
                files=len(files),
                sample=tuple(files),
            )


def _parts(tree: Tree, folder: str, *, without: Sequence[str]) -> dict[str, FolderContents]:
    """Return contents of a folder and of all below it, by path below it, but for some folders."""
    return {
        name.removeprefix(folder).removeprefix("/"): contents
        for name, contents in tree.below(folder)
        if not any(is_within(name, other) for other in without)
    }


def _suffix(split_folder: str) -> str:
    return dataset_name(split_folder) or "val"


def _pattern(suffixes: Counter[str]) -> str:
    names = sorted(suffix.removeprefix(".") for suffix in suffixes)
    return f"**/*.{names[0]}" if len(names) == 1 else f"**/*.{{{','.join(names)}}}"


def _classes(parts: dict[str, FolderContents]) -> tuple[str, ...]:
    """Return class folders: all images lie in folders directly below the root, of which there are several."""
    holding = [path for path, contents in parts.items() if contents.suffixes]
    flat = all(path and "/" not in path for path in holding)
    return tuple(holding) if flat and len(holding) >= CLASS_FOLDERS else ()


def _doubtful(parts: dict[str, FolderContents]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path, contents in parts.items():
        for part in PurePosixPath(path).parts:
            if part.lower().startswith(NO_PHOTOGRAPHS) and contents.suffixes:
                counts[part] += sum(contents.suffixes.values())
                break
    return dict(counts.most_common())


def _paths(parts: dict[str, FolderContents], kind: Literal["tars", "parquets"]) -> list[str]:
    names = {path: contents.tars if kind == "tars" else contents.parquets for path, contents in parts.items()}
    return sorted(f"{path}/{name}" if path else name for path, files in names.items() for name in files)


def _by_split(paths: Sequence[str], known: Split | None) -> dict[str, list[str]]:
    """Group files by the split that their names begin with, in one group if that is known or told by none of them."""
    if not paths:
        return {}
    found: dict[str, list[str]] = {}
    for path in paths:
        match = SPLIT_OF_FILE.match(PurePosixPath(path).name)
        found.setdefault(match.group(1).lower() if match else "", []).append(path)
    several = known is None and (len(found) > 1 or SPLITS.get(next(iter(found)), "train") == "val")
    return found if several else {"": list(paths)}


def _file_patterns(files: Sequence[str], *, all_of: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Return globs of some files among others: by suffix, by the beginning of their names, or one by one."""
    suffixes = sorted({PurePosixPath(path).suffix for path in files})
    if len(files) == len(all_of):
        return tuple(f"**/*{escaped(suffix)}" for suffix in suffixes)
    begins = sorted({PurePosixPath(path).name[: len(prefix)] for path in files})
    if prefix and {path for path in all_of if PurePosixPath(path).name.startswith(tuple(begins))} == set(files):
        return tuple(f"**/{escaped(begin)}*{escaped(suffix)}" for begin in begins for suffix in suffixes)
    return tuple(escaped(path) for path in files)
