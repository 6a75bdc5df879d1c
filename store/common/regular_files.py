"""Open files that untrusted data names: regular files alone, below a root that no name leaves, without waiting.

Opening a pipe waits for a writer, a device may do anything, and a link may lead to any file of the machine. Whoever
opens a file by a name that came from data opens it here.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

from store import errors

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
OPEN_FILES = Path("/proc/self/fd")
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file that the user named, for reading; links are followed.

    Raises:
        errors.RefusedFile: it is not a regular file.
        OSError: it does not exist or cannot be opened.
    """
    return _open(os.fspath(path), OPEN_FLAGS)


def open_below(root: str | Path, name: str) -> BufferedReader:
    """Open a file that data names, for reading; a link is followed where it leads to another file below the root.

    Args:
        root: folder that the file must be in; may be a link itself.
        name: path relative to `root`.

    Raises:
        errors.RefusedFile: it is outside the root, or not a regular file.
        OSError: it does not exist or cannot be opened.
    """
    if "\0" in name:
        raise errors.RefusedFile("unreadable file", "no name can contain a NUL")
    resolved_root = os.path.realpath(root)
    resolved = os.path.realpath(os.path.join(root, name), strict=True)
    _check_below(resolved_root, resolved)
    file = _open(resolved, OPEN_FLAGS | os.O_NOFOLLOW)  # resolved: a link here is newer than the check
    try:
        _check_below(resolved_root, _opened_path(file) or resolved)  # a folder above it may be newer, too
    except BaseException:
        file.close()
        raise
    return file


def open_descriptor(path: str | Path) -> int:
    """Return a descriptor of a file that the user named, for reading; raises as `open_regular`."""
    return _descriptor(os.fspath(path), OPEN_FLAGS)


def _open(path: str, flags: int) -> BufferedReader:
    handle = _descriptor(path, flags)
    try:
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _descriptor(path: str, flags: int) -> int:
    _check_regular(os.stat(path).st_mode)  # before: opening a device can have effects
    handle = os.open(path, flags)
    try:
        _check_regular(os.fstat(handle).st_mode)  # after: it may have been replaced in between
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in KINDS if is_kind(mode)), "something else")
        raise errors.RefusedFile("unreadable file", f"not a regular file but {kind}")


def _check_below(root: str, path: str) -> None:
    if os.path.commonpath((root, path)) != root:
        raise errors.RefusedFile("outside the root", f"it leads to '{path}'")


def _opened_path(file: BufferedReader) -> str | None:
    """Return the path of an open file as the kernel knows it; None where the system does not tell."""
    try:
        path = os.readlink(OPEN_FILES / str(file.fileno()))
    except OSError:
        return None
    return path if path.startswith("/") else None
