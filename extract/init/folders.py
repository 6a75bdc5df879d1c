"""What lies in a folder: how many images, tar and Parquet files each of its folders holds. Opens no file."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from extract.image_suffixes import IMAGE_SUFFIXES
from store import errors

TAR, PARQUET = (".tar",), (".parquet", ".pq")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".mts")
SAMPLED_NAMES = 4  # of one folder


@dataclass(kw_only=True)
class FolderContents:
    """Files that lie directly in one folder.

    Attributes:
        suffixes: number of images by suffix, as it is written.
        images: some names of images.
        special: number of images that are pipes, sockets or devices: extraction lists them, and refuses to open them.
        links: number of images that are links, by the folder below the root that they lead into; None where that is no
            file below the root.
        tars, parquets, packed: names of tar files, of Parquet files, and of archives that cannot be read in place.
        videos: names of videos, which are not read.
        others: number of other files.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    images: list[str] = field(default_factory=list)
    special: int = 0
    links: Counter[str | None] = field(default_factory=Counter)
    tars: list[str] = field(default_factory=list)
    parquets: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    others: int = 0

    def add(self, name: str) -> None:
        """Count one file."""
        lower = name.lower()
        suffix = PurePosixPath(name).suffix
        if suffix.lower() in IMAGE_SUFFIXES:
            self.suffixes[suffix] += 1
            if len(self.images) < SAMPLED_NAMES:
                self.images.append(name)
        elif lower.endswith(PACKED):
            self.packed.append(name)
        elif lower.endswith(TAR):
            self.tars.append(name)
        elif lower.endswith(PARQUET):
            self.parquets.append(name)
        elif lower.endswith(VIDEO):
            self.videos.append(name)
        else:
            self.others += 1

    def refused(self, folder: str) -> int:
        """Return how many images extraction would list and not open, if a dataset's root were `folder`."""
        outside = (n for target, n in self.links.items() if target is None or not is_within(target, folder))
        return self.special + sum(outside)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder and all folders below it.

    Attributes:
        root: the folder, as it was given.
        contents: contents of each folder by its path below the root, POSIX; "" is the root itself.
        linked: folders behind symbolic links, which are not entered.
        unreadable: folders that cannot be listed.
        not_utf8: files and folders whose names are not UTF-8: extraction lists them, and their rows fail.
    """

    root: Path
    contents: dict[str, FolderContents]
    linked: list[str]
    unreadable: list[str]
    not_utf8: list[str]

    def below(self, folder: str) -> Iterator[tuple[str, FolderContents]]:
        """Yield folder and contents of a folder and of all below it."""
        for name, contents in self.contents.items():
            if is_within(name, folder):
                yield name, contents

    def children(self, folder: str) -> list[str]:
        """Return the paths of the folders directly below one, sorted."""
        depth = len(PurePosixPath(folder).parts)
        return sorted(
            name for name, _ in self.below(folder) if name != folder and len(PurePosixPath(name).parts) == depth + 1
        )


def look(root: Path, on_file: Callable[[], object]) -> Tree:
    """List a folder and all below it. Hidden files and folders are left out, as extraction does.

    Args:
        root: the folder.
        on_file: called once for every entry of a folder.

    Raises:
        errors.MissingFile: it cannot be listed.
    """
    resolved_root = os.path.realpath(root)
    tree = Tree(root=root, contents={}, linked=[], unreadable=[], not_utf8=[])
    folders = [""]
    while folders:
        folder = folders.pop()
        contents = tree.contents.setdefault(_shown(folder), FolderContents())
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    on_file()
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if _shown(entry.name) != entry.name:
                        tree.not_utf8.append(_shown(name))
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        tree.linked.append(_shown(name))
                    else:
                        _add(contents, entry, resolved_root)
        except OSError as error:
            if not folder:
                raise errors.MissingFile(f"folder '{root}' cannot be listed ({error.strerror})") from error
            tree.unreadable.append(_shown(folder))
    return replace(tree, contents=dict(sorted(tree.contents.items())), linked=sorted(tree.linked))


def is_within(name: str, folder: str) -> bool:
    """Return whether a path below the root is a folder or lies in it; everything lies in "", the root."""
    return not folder or name == folder or name.startswith(f"{folder}/")


def _add(contents: FolderContents, entry: os.DirEntry[str], resolved_root: str) -> None:
    """Count what is no folder: an image as extraction lists it, anything else if it is a regular file."""
    name = _shown(entry.name)
    is_image = PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
    regular = _is_regular(entry)
    if is_image or regular:
        contents.add(name)
    if is_image and entry.is_symlink():
        contents.links[_folder_of_target(entry.path, resolved_root) if regular else None] += 1
    elif is_image and not regular:
        contents.special += 1


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _folder_of_target(path: str, resolved_root: str) -> str | None:
    """Return the folder below the root that a link's file is in; None if it is outside."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.commonpath((resolved_root, folder)) != resolved_root:
        return None
    relative = os.path.relpath(folder, resolved_root)
    return "" if relative == "." else _shown(relative)


def _shown(name: str) -> str:
    """Return a name as extraction lists it, also one that is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        from extract.sources.base import storable  # slow to import, and rarely needed

        return storable(name)
    return name
