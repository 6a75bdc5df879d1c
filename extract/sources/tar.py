"""Images in tar files, as webdataset writes them, read by position without unpacking."""

import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from extract.sources.base import UNKNOWN_BYTES, Listing, ListingBuilder, relative_name, storable
from extract.sources.files import FolderSource
from extract.sources.glob import compile_globs
from store import errors
from store.errors import DecodeError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2")
END_OF_ARCHIVE = bytes(tarfile.BLOCKSIZE)
SCANNING_THREADS = 16
CACHED_TARS = 64


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Contents of a tar file.

    Attributes:
        members: (position of the first byte, size in bytes) of each image by name.
        skipped: number of members that are no images, or whose names cannot be used.
        cut_short: whether the end of the file is missing; images may then be missing, too.
    """

    members: dict[str, tuple[int, int]]
    skipped: int
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
        self._archive = lru_cache(CACHED_TARS)(lambda name: scan(self._files.root / name))

    def describe(self) -> dict[str, Any]:
        """See `Source.describe`."""
        return {"kind": "tar", "tar": list(self.tars), "exclude": list(self.exclude)}

    def enumerate(self) -> Listing:
        """See `Source.enumerate`. Raises errors.InvalidInput for a file that is no tar, or a compressed one."""
        tars = self._files.enumerate().paths
        excluded = compile_globs(self.exclude)
        images = ListingBuilder()
        skipped, cut_short = 0, []
        with ThreadPoolExecutor(SCANNING_THREADS) as pool:
            for tar, archive in zip(tars, pool.map(lambda name: scan(self._files.root / name), tars), strict=True):
                for member, (_, size) in archive.members.items():
                    if not excluded.fullmatch(f"{tar}/{member}"):
                        images.add(f"{tar}/{member}", size)
                skipped += archive.skipped
                cut_short += [tar] * archive.cut_short
        notes = [f"{skipped} members of {len(tars)} tar files are no images"] if skipped else []
        if cut_short:
            notes.append(f"{len(cut_short)} tar files have no end and may lack images, first '{cut_short[0]}'")
        return images.finish(notes)

    def read(self, path: str, size_bytes: int) -> bytes:
        """See `Source.read`."""
        tar = self._tar_of(path)
        try:
            members = self._archive(tar).members
        except (OSError, errors.CodistillError) as error:
            self._files.check_root()
            raise DecodeError("unreadable file", f"tar '{tar}': {error}") from error
        if path[len(tar) + 1 :] not in members:
            raise DecodeError("missing file", f"no longer in tar '{tar}'")
        offset, size = members[path[len(tar) + 1 :]]
        if size != size_bytes != UNKNOWN_BYTES:
            raise DecodeError("changed file", f"{size_bytes} bytes when indexed, {size} now")
        content = self._files.read_part(tar, offset, size)
        if len(content) < size:
            raise DecodeError("damaged image", f"tar '{tar}' is cut short")
        return content

    def _tar_of(self, path: str) -> str:
        for at, character in enumerate(path):
            if character == "/" and self._is_tar.fullmatch(path[:at]):
                return path[:at]
        raise DecodeError("missing file", f"is in no tar file matching {' '.join(self.tars)}")


def scan(path: Path) -> Archive:
    """Read the headers of an uncompressed tar file.

    Raises:
        errors.InvalidInput: the file is no tar file, or a compressed one.
        OSError: the file cannot be read.
    """
    members: dict[str, tuple[int, int]] = {}
    skipped, end = 0, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = relative_name(storable(member.name))
                if member.isreg() and not member.issparse() and name and name.lower().endswith(IMAGE_SUFFIXES):
                    members[name] = (member.offset_data, member.size)
                elif not member.isdir():
                    skipped += 1
            end = archive.offset
    except tarfile.TarError as error:
        if not members and not skipped:
            advice = "Expected an uncompressed tar file; others cannot be read by position"
            raise errors.InvalidInput(f"tar '{path}': {error}. {advice}") from error
        return Archive(members=members, skipped=skipped, cut_short=True)
    with path.open("rb") as file:
        file.seek(end)
        return Archive(members=members, skipped=skipped, cut_short=file.read(tarfile.BLOCKSIZE) != END_OF_ARCHIVE)
