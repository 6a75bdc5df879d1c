"""Images in tar files, as webdataset writes them, read by position without unpacking."""

import os
import tarfile
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from extract.image_suffixes import IMAGE_SUFFIXES
from extract.sources.base import UNKNOWN_BYTES, Listing, ListingBuilder, relative_name, storable
from extract.sources.files import FolderSource
from extract.sources.glob import compile_globs
from store import errors
from store.common.text import some
from store.common.threads import ordered_map
from store.errors import DecodeError

END_OF_ARCHIVE = bytes(tarfile.BLOCKSIZE)
SCANNING_THREADS = 16
CACHED_TARS = 64
LONGEST_HEADER_BYTES = 2**24  # names and attributes; a header may claim any length
LARGEST_MEMBER_BYTES = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Contents of a tar file.

    Attributes:
        members: (position of the first byte, size in bytes) of each image by name.
        skipped: number of members that are no images, or whose names cannot be used.
        repeated: number of images whose name occurs again later; the last one counts, as when unpacking.
        cut_short: whether the end of the file is missing or unreadable; images may then be missing, too.
    """

    members: dict[str, tuple[int, int]]
    skipped: int
    repeated: int
    cut_short: bool


class TarSource:
    """Images in the tar files below a root. An image's path is `<tar file>/<member>`.

    Paths are sorted, so a cache's shards read each tar file nearly in sequence if its members are sorted.
    """

    def __init__(self, root: Path, *, tars: Sequence[str], exclude: Sequence[str]) -> None:
        self.tars = tuple(tars)
        self.exclude = tuple(exclude)
        self._files = FolderSource(root, patterns=tars, exclude=())
        self._is_tar = compile_globs(tars)
        self._archive = lru_cache(CACHED_TARS)(self._scan)

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        return {"kind": "tar", "tar": list(self.tars), "exclude": list(self.exclude)}

    def enumerate(self) -> Listing:
        """See `Source.enumerate`. Raises errors.InvalidInput for a file that is no tar, or a compressed one."""
        tars = self._files.enumerate().paths
        excluded = compile_globs(self.exclude)
        images = ListingBuilder()
        skipped, repeated, cut_short, problems = 0, 0, [], []
        with closing(self._scan_all(tars)) as archives:  # on Ctrl-C, too
            for tar, archive in zip(tars, archives, strict=True):
                if isinstance(archive, str):
                    problems.append(archive)
                    continue
                for member, (_, size) in archive.members.items():
                    if not excluded.fullmatch(f"{tar}/{member}"):
                        images.add(f"{tar}/{member}", size)
                skipped += archive.skipped
                repeated += archive.repeated
                cut_short += [tar] * archive.cut_short
        if problems:
            raise errors.InvalidInput(f"{len(problems)} of {len(tars)} tar files cannot be used: {some(problems)}")
        notes = [f"{skipped} members of {len(tars)} tar files are no images"] if skipped else []
        if repeated:
            notes.append(f"{repeated} images have the name of a later one in the same tar file, which is taken")
        if cut_short:
            notes.append(f"{len(cut_short)} tar files have no end and may lack images, first '{cut_short[0]}'")
        return images.finish(notes)

    def read(self, path: str, size_bytes: int) -> bytes:
        """See `Source.read`."""
        tar = self._tar_of(path)
        try:
            members = self._archive(tar).members
        except errors.InvalidInput as error:
            raise DecodeError("unreadable file", str(error)) from error
        if path[len(tar) + 1 :] not in members:
            raise DecodeError("missing file", f"no longer in tar '{tar}'")
        offset, size = members[path[len(tar) + 1 :]]
        if size != size_bytes != UNKNOWN_BYTES:
            raise DecodeError("changed file", f"{size_bytes} bytes when indexed, {size} now")
        content = self._files.read_part(tar, offset, size)
        if len(content) < size:
            raise DecodeError("damaged image", f"tar '{tar}' is cut short")
        return content

    def _scan_all(self, tars: Sequence[str]) -> Generator[Archive | str, None, None]:
        """Yield the contents of each tar file, or why it cannot be used. Closing the iterator stops the scans."""
        stop = threading.Event()

        def scan_or_problem(tar: str) -> Archive | str:
            try:
                return self._scan(tar, stop)
            except errors.InvalidInput as error:
                return str(error)

        with ThreadPoolExecutor(SCANNING_THREADS) as pool:
            try:
                yield from ordered_map(pool, scan_or_problem, tars, ahead=2 * SCANNING_THREADS)
            finally:
                stop.set()

    def _scan(self, tar: str, stop: threading.Event | None = None) -> Archive:
        """Read the headers of a tar file.

        Raises:
            errors.InvalidInput: the file cannot be read, is no tar file, or a compressed one.
            errors.MissingFile: the whole root cannot be read.
            OSError: the machine is at fault.
        """
        try:
            with self._files.open(tar) as file:
                return scan(file, f"tar '{tar}'", stop or threading.Event())
        except DecodeError as error:
            raise errors.InvalidInput(f"tar '{tar}': {error}") from error
        except OSError as error:
            self._files.check_own_fault(error)
            raise errors.InvalidInput(f"tar '{tar}': {error}") from error

    def _tar_of(self, path: str) -> str:
        for at, character in enumerate(path):
            if character == "/" and self._is_tar.fullmatch(path[:at]):
                return path[:at]
        raise DecodeError("missing file", f"is in no tar file matching {' '.join(self.tars)}")


def scan(file: BufferedReader, subject: str, stop: threading.Event) -> Archive:
    """Read the headers of an uncompressed tar file.

    Args:
        file: tar file, open for reading.
        subject: name of the file, for the error.
        stop: once set, reading ends with the next header.

    Raises:
        errors.InvalidInput: the file is no tar file, or a compressed one.
        OSError: the file cannot be read.
    """
    members: dict[str, tuple[int, int]] = {}
    skipped, images = 0, 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _BoundedReads(file)), mode="r:") as archive:
            for member in _members(archive):
                name = relative_name(storable(member.name))
                if member.isreg() and not member.issparse() and name and name.lower().endswith(IMAGE_SUFFIXES):
                    members[name] = (member.offset_data, member.size)
                    images += 1
                elif not member.isdir():
                    skipped += 1
                if stop.is_set():
                    break
            file.seek(archive.offset)
            cut_short = file.read(tarfile.BLOCKSIZE) != END_OF_ARCHIVE
    except OSError:
        raise
    except Exception as error:  # hostile headers raise whatever their bytes happen to mean
        if not members and not skipped:
            advice = "Expected an uncompressed tar file; others cannot be read by position"
            raise errors.InvalidInput(f"{subject}: {error}. {advice}") from error
        cut_short = True
    return Archive(members=members, skipped=skipped, repeated=images - len(members), cut_short=cut_short)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive without collecting them.

    Raises:
        tarfile.ReadError: a header is damaged, or leads back to an earlier one.
    """
    while (member := archive.next()) is not None:
        if not 0 <= member.size <= LARGEST_MEMBER_BYTES:
            raise tarfile.ReadError(f"member '{storable(member.name)}' claims a size of {member.size} bytes")
        archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
        yield member


class _BoundedReads:
    """Reading and moving within a file, where no single read is longer than a sensible header."""

    def __init__(self, file: BufferedReader) -> None:
        self.tell = file.tell
        self._file = file
        self._size_bytes = os.fstat(file.fileno()).st_size

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._size_bytes:
            raise tarfile.ReadError(f"a header leads to byte {position} of {self._size_bytes}")
        return self._file.seek(position)

    def read(self, size_bytes: int) -> bytes:
        if not 0 <= size_bytes <= LONGEST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size_bytes} bytes, expected at most {LONGEST_HEADER_BYTES}")
        return self._file.read(size_bytes)
