"""Images as loose files below a folder: found by a glob, or named by a list."""

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from extract.sources.base import UNKNOWN_BYTES, Listing, ListingBuilder, relative_name, storable
from extract.sources.glob import compile_globs
from extract.sources.lists import read_list
from store import errors
from store.common.regular_files import open_below, open_regular
from store.common.threads import ordered_map
from store.errors import DecodeError

LARGEST_FILE_BYTES = 2**30
LISTING_THREADS = 16  # the status of a file over a network costs latency, not CPU
LISTING_PART = 1024  # files whose status one task reads
# Faults of the image itself if the root can be listed; others (ESTALE, ETIMEDOUT, EMFILE...) stop the shard.
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
    """Reads files below a root; refuses paths that lead outside it by `..`, absolute name or symbolic link."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str, size_bytes: int) -> bytes:
        """See `Source.read`."""
        content = self.read_part(path, 0, LARGEST_FILE_BYTES + 1)
        if len(content) != size_bytes != UNKNOWN_BYTES:
            raise DecodeError("changed file", f"{size_bytes} bytes when indexed, {len(content)} now")
        return content

    def read_part(self, path: str, offset: int, size_bytes: int) -> bytes:
        """Return at most `size_bytes` bytes of a file from `offset` on; raises as `Source.read`."""
        with self.open(path) as file:
            try:
                return _read_part(file, offset, size_bytes)
            except OSError as error:
                self.check_own_fault(error)
                raise _unreadable(error, path) from error

    def open(self, path: str) -> BufferedReader:
        """Open a regular file below the root; raises as `Source.read`."""
        try:
            return open_below(self.root, path)
        except errors.RefusedFile as error:
            raise DecodeError(error.reason_kind, error.details) from error
        except OSError as error:
            self.check_own_fault(error)
            raise _unreadable(error, path) from error

    def check_own_fault(self, error: OSError) -> None:
        """Raise unless an error is the fault of the one file that was read, not of the root or of the machine."""
        self.check_root()
        if error.errno not in IMAGE_ERRORS:
            raise error

    def check_root(self) -> None:
        """Raise errors.MissingFile unless the root can be listed and holds something."""
        try:
            with os.scandir(self.root) as entries:
                empty = not any(entries)
        except OSError as error:
            raise errors.MissingFile(f"image folder '{self.root}' cannot be read ({error.strerror})") from error
        if empty:
            raise errors.MissingFile(f"image folder '{self.root}' is empty. Is it mounted?")


class FolderSource(FileSource):
    """Files below a folder that match a glob. Hidden files never do; folders behind symbolic links are not entered."""

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
        images = ListingBuilder()
        linked_folders: list[str] = []
        unmatched = 0
        for name, entry in self._files(linked_folders):
            if not wanted.fullmatch(name):
                unmatched += 1
            elif not excluded.fullmatch(name):
                images.add(name, _size_of(entry))
        notes = []
        if linked_folders:
            notes.append(
                f"{len(linked_folders)} folders behind symbolic links not entered, first '{linked_folders[0]}'"
            )
        if unmatched:
            notes.append(f"{unmatched} files do not match {' '.join(self.patterns)}")
        return images.finish(notes)

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
    """Files below a root that a list names."""

    def __init__(self, root: Path, *, list_file: Path, exclude: Sequence[str]) -> None:
        super().__init__(root)
        self.list_file = list_file
        self.exclude = tuple(exclude)

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        return {"kind": "list", "list_sha256": self._list_digest(), "exclude": list(self.exclude)}

    def _list_digest(self) -> str:
        try:
            with open_regular(self.list_file) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return "not there"

    def enumerate(self) -> Listing:
        """See `Source.enumerate`. Raises errors.InvalidInput if the list names paths outside the root."""
        self.check_root()
        listed = read_list(self.list_file)
        excluded = compile_globs(self.exclude)
        named = [self._relative(path) for path in listed]
        outside = [path for path, name in zip(listed, named, strict=True) if name is None]
        if outside:
            raise errors.InvalidInput(
                f"list '{self.list_file}': {len(outside)} paths are outside the root '{self.root}', first "
                f"'{outside[0]}'. Expected paths relative to the root, without '..'"
            )
        names = [name for name in named if name is not None and not excluded.fullmatch(name)]
        images, missing = ListingBuilder(), 0
        parts = (names[start : start + LISTING_PART] for start in range(0, len(names), LISTING_PART))
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            sizes = ordered_map(pool, lambda part: [self._size(name) for name in part], parts, ahead=LISTING_THREADS)
            for name, size in zip(names, chain.from_iterable(sizes), strict=True):
                images.add(name, size)
                missing += size == UNKNOWN_BYTES
        return images.finish([f"{missing} listed files are not there; their rows will fail"] if missing else [])

    def _relative(self, path: str) -> str | None:
        """Return the path below the root in normal form; None if it is outside the root."""
        pure = PurePosixPath(path)
        return relative_name(storable(str(pure.relative_to(self.root)) if pure.is_relative_to(self.root) else path))

    def _size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self.root, name)).st_size
        except (OSError, ValueError):  # a name with a NUL
            return UNKNOWN_BYTES


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return UNKNOWN_BYTES


def _read_part(file: BufferedReader, offset: int, size_bytes: int) -> bytes:
    wanted = min(size_bytes, max(os.fstat(file.fileno()).st_size - offset, 0))
    if wanted > LARGEST_FILE_BYTES:
        raise DecodeError("too large", f"{wanted} bytes, at most {LARGEST_FILE_BYTES} are read")
    file.seek(offset)
    return file.read(wanted)


def _unreadable(error: OSError, path: str) -> DecodeError:
    if error.errno == errno.ENOENT and "\\udc" in path:
        return DecodeError("unreadable file", "its name is not UTF-8; rename the file")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DecodeError("missing file", "removed since it was indexed, or a dangling link")
    return DecodeError("unreadable file", (error.strerror or str(error)).lower())
