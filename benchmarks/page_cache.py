"""Bring files into the operating system's page cache or drop them, so that a measurement starts from a known state."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

BLOCK_BYTES = 8 * 2**20


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder (or the file itself), sorted."""
    return [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())


def bytes_of(paths: Iterable[Path]) -> int:
    """Return the total size of some files."""
    return sum(path.stat().st_size for path in paths)


def sync(paths: Iterable[Path]) -> None:
    """Write files through to the disk."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def warm(paths: Iterable[Path]) -> None:
    """Bring files into the page cache, by reading them once."""
    block = bytearray(BLOCK_BYTES)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass


def drop(paths: Iterable[Path]) -> None:
    """Drop files from the page cache; no process may have them mapped."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)  # pages not yet written would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def resident_share(paths: Iterable[Path]) -> float:
    """Return the share of some files that is in the page cache, 0 to 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = present = 0
    for path in paths:
        size = path.stat().st_size
        if not size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
            states = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            if libc.mincore(ctypes.byref(start), ctypes.c_size_t(size), states):
                raise OSError(ctypes.get_errno(), f"mincore of {path}")
            del start  # the mapping cannot be closed while this refers to it
            pages += len(states)
            present += sum(state & 1 for state in bytes(states))
    return present / pages if pages else 0.0
