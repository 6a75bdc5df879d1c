"""Images as loose files below a folder: found by a glob, or named by a list."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from extract.errors import DecodeError
from extract.sources.base import UNKNOWN_BYTES, Listing, sorted_listing
from extract.sources.glob import compile_globs
from extract.sources.lists import read_list
from store import errors

LARGEST_FILE_BYTES = 2**30
LISTING_THREADS = 16  # file status over a network is latency, not work
# The image's own fault where the root can be listed; others (ESTALE, ETIMEDOUT, EMFILE...) stop the shard.
IMAGE_ERRORS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENXIO,
    errno.EIO,
}


class FileSource:
    """Reading files below a root that none of them may leave, by `..`, absolute name or symbolic link."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str, size_bytes: int) -> bytes:
        """See `Source.read`."""
        if "\0" in path:
            raise DecodeError("unreadable file", "no name can contain a NUL")
        full = os.path.join(self.root, path)
        try:
            self._check_inside(full)
            content = _read_regular(full)
        except OSError as error:
            self._check_there()
            if error.errno not in IMAGE_ERRORS:
                raise
            raise _unreadable(error, path) from error
        if len(content) != size_bytes != UNKNOWN_BYTES:
            raise DecodeError("changed file", f"{size_bytes} bytes when indexed, {len(content)} now")
        return content

    def _check_inside(self, full: str) -> None:
        root = os.path.realpath(self.root)
        real = os.path.realpath(full, strict=True)
        if os.path.commonpath((root, real)) != root:
            raise DecodeError("outside the root", f"a symbolic link leads to '{real}'")

    def _check_there(self) -> None:
        try:
            with os.scandir(self.root) as entries:
                there = any(entries)
        except OSError as error:
            raise errors.MissingFile(f"image folder '{self.root}' cannot be read ({error.strerror})") from error
        if not there:
            raise errors.MissingFile(f"image folder '{self.root}' is empty. Is it mounted?")


class FolderSource(FileSource):
    """The files below a folder that match a glob. Hidden files never do; folders behind links are not entered."""

    def __init__(self, root: Path, *, patterns: Sequence[str], exclude: Sequence[str]) -> None:
        super().__init__(root)
        self.patterns = tuple(patterns)
        self.exclude = tuple(exclude)

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        return {"kind": "folder", "pattern": list(self.patterns), "exclude": list(self.exclude)}

    def enumerate(self) -> Listing:
        """See `Source.enumerate`."""
        wanted, excluded = compile_globs(self.patterns), compile_globs(self.exclude)
        sizes: dict[str, int] = {}
        linked_folders: list[str] = []
        unmatched = 0
        for name, entry in self._files(linked_folders):
            if not wanted.fullmatch(name):
                unmatched += 1
            elif not excluded.fullmatch(name):
                sizes[name] = _size_of(entry)
        notes = []
        if linked_folders:
            notes.append(
                f"{len(linked_folders)} folders behind symbolic links not entered, first '{linked_folders[0]}'"
            )
        if unmatched:
            notes.append(f"{unmatched} files do not match {' '.join(self.patterns)}")
        return sorted_listing(sizes, notes)

    def _files(self, linked_folders: list[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    visible = [entry for entry in entries if not entry.name.startswith(".")]
            except OSError as error:
                raise errors.MissingFile(
                    f"image folder '{self.root / folder}' cannot be listed ({error.strerror}). "
                    "Mount it, or correct `root` in the catalogue"
                ) from error
            for entry in visible:
                name = storable(folder + entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(folder + entry.name + "/")
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    linked_folders.append(name)
                else:
                    yield name, entry


class ListSource(FileSource):
    """The files that a list names, below a root."""

    def __init__(self, root: Path, *, list_file: Path, exclude: Sequence[str]) -> None:
        super().__init__(root)
        self.list_file = list_file
        self.exclude = tuple(exclude)

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        digest = hashlib.sha256(self.list_file.read_bytes()).hexdigest() if self.list_file.exists() else "not there"
        return {"kind": "list", "list_sha256": digest, "exclude": list(self.exclude)}

    def enumerate(self) -> Listing:
        """See `Source.enumerate`. Raises errors.InvalidInput if the list names paths outside the root."""
        self._check_there()
        listed = read_list(self.list_file)
        excluded = compile_globs(self.exclude)
        named = [self._relative(path) for path in listed]
        outside = [path for path, name in zip(listed, named, strict=True) if name is None]
        if outside:
            raise errors.InvalidInput(
                f"list '{self.list_file}': {len(outside)} paths are outside the root '{self.root}', first "
                f"'{outside[0]}'. Expected paths relative to the root, without '..'"
            )
        names = {name for name in named if name is not None and not excluded.fullmatch(name)}
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            sizes = dict(zip(names, pool.map(self._size, names, chunksize=1024), strict=True))
        notes = []
        if len(set(named)) < len(named):
            notes.append(f"{len(named) - len(set(named))} paths are listed more than once and taken once")
        missing = sum(size == UNKNOWN_BYTES for size in sizes.values())
        if missing:
            notes.append(f"{missing} listed files are not there; their rows will fail")
        return sorted_listing(sizes, notes)

    def _relative(self, path: str) -> str | None:
        """The path below the root in normal form; None if it is not below it."""
        pure = PurePosixPath(path)
        if pure.is_absolute():
            if not pure.is_relative_to(self.root):
                return None
            pure = pure.relative_to(self.root)
        return None if ".." in pure.parts or not pure.parts else str(pure)

    def _size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self.root, name)).st_size
        except OSError:
            return UNKNOWN_BYTES


def storable(name: str) -> str:
    """A file's name as text that UTF-8 can hold; bytes that are not UTF-8 become escapes, which no file answers to."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return UNKNOWN_BYTES


def _read_regular(full: str) -> bytes:
    handle = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would wait for a writer
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("unreadable file", "not a regular file")
        if status.st_size > LARGEST_FILE_BYTES:
            raise DecodeError("too large", f"{status.st_size} bytes, at most {LARGEST_FILE_BYTES} are read")
        return file.read()


def _unreadable(error: OSError, path: str) -> DecodeError:
    if error.errno == errno.ENOENT and "\\udc" in path:
        return DecodeError("unreadable file", "its name is not UTF-8; rename the file")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DecodeError("missing file", "removed since it was indexed, or a dangling link")
    return DecodeError("unreadable file", (error.strerror or str(error)).lower())
