"""SHA-256 sums beside files, in the form of `sha256sum`: `SHA256SUMS` of a folder, `NAME.sha256` of a single file."""

import hashlib
import math
import re
from collections.abc import Iterable
from pathlib import Path

from store.common import atomic
from store.errors import Damaged

SUMS = "SHA256SUMS"
SMALL_BYTES = 2**20
SUFFIX = ".sha256"  # of the sums of a single file that shares its folder with others
LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(\S.*)")  # * is how some mark binary files


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the sums of files of a folder into the folder."""
    _write(folder / SUMS, [folder / name for name in names])


def write_file_sum(path: Path) -> None:
    """Write the sum of a file into `NAME.sha256` beside it."""
    _write(path.with_name(path.name + SUFFIX), [path])


def check_folder(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compare files with the sums of their folder; a folder without sums is not checked.

    Args:
        folder: folder that may hold `SHA256SUMS`.
        names: names of the files to check; None means all that are listed.

    Raises:
        Damaged: a file is not the one that was written, or the sums are damaged; every file is listed.
    """
    if not (folder / SUMS).exists():
        return
    listed = read_sums(folder / SUMS)
    problems = []
    for name in listed if names is None else names:
        if name not in listed:
            problems.append(f"{SUMS} does not list {name}")
        else:
            problems += _problems(folder / name, listed[name], of=SUMS)
    if problems:
        raise Damaged(f"'{folder}' is damaged: {'; '.join(problems)}")


def check_file(path: Path) -> None:
    """Compare a file with the sums beside it, if there are any.

    They are `NAME.sha256`, or `SHA256SUMS` where that lists it; the small files listed there, which say what the file
    is, are compared as well.

    Raises:
        Damaged: the file is not the one that was written, or the sums are damaged.
    """
    problems = []
    own, of_folder = path.with_name(path.name + SUFFIX), path.with_name(SUMS)
    if own.is_file():
        listed = read_sums(own)
        if path.name in listed:
            problems += _problems(path, listed[path.name], of=own.name)
        else:
            problems.append(f"{own.name} does not list it")
    if of_folder.is_file() and path.name in (listed := read_sums(of_folder)):
        small = (name for name in listed if _size(path.parent / name) <= SMALL_BYTES)
        for name in dict.fromkeys([path.name, *small]):
            problems += _problems(path.parent / name, listed[name], of=SUMS)
    if problems:
        raise Damaged(f"'{path}' is damaged: {'; '.join(problems)}. Copy or download it again")


def read_sums(path: Path) -> dict[str, str]:
    """Return the sums of a file as name -> sha256.

    Raises:
        Damaged: a line has another form, or a name appears twice.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").removesuffix("\n").split("\n"), start=1):
        match = LINE.fullmatch(line)
        if not match or match[2] in sums:
            raise Damaged(f"'{path}' is damaged: line {number} is not a sha256 and the name of a file")
        sums[match[2]] = match[1]
    return sums


def _write(sums: Path, files: Iterable[Path]) -> None:
    atomic.write_text(sums, "".join(f"{file_sha256(file)}  {file.name}\n" for file in files))


def _size(path: Path) -> float:
    return path.stat().st_size if path.is_file() else math.inf


def _problems(path: Path, expected: str, *, of: str) -> list[str]:
    try:
        actual = file_sha256(path)
    except FileNotFoundError:
        return [f"{path.name} is missing, which {of} lists"]
    return [] if actual == expected else [f"{path.name} has sha256 {actual}, expected {expected} ({of})"]
