"""Files of a dataset below its root: text, tables of numbers, JSON, images and arrays, never from outside of the root.

Names come from data. Each is opened below the root, links included; nothing is unpickled.
"""

import gzip
import io
import os
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import numpy as np

from extract.views.decode import decode
from store.common import strict_json
from store.common.regular_files import open_below
from store.errors import Damaged, DecodeError, InvalidInput, MissingFile, RefusedFile, UnsafeFile

LARGEST_JSON_BYTES = 2**31


class Tree:
    """The files below a folder.

    Args:
        root: the folder.
        subject: name of the dataset, for messages.

    Raises:
        MissingFile: no such folder.
    """

    def __init__(self, root: Path, *, subject: str) -> None:
        self.root, self.subject = root, subject
        if not root.is_dir():
            reason = "is a file" if root.exists() else "no such folder"
            raise MissingFile(f"{subject}: root '{root}': {reason}. Check the path")

    def glob(self, pattern: str) -> list[str]:
        """Return names that match a pattern, relative to the root, sorted; those that begin with a dot never do."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))
        return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))

    def folders(self, name: str = "") -> list[str]:
        """Return the names of the folders directly below a folder, sorted; none if it does not exist."""
        folder = self.root / name
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def has(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        return (self.root / name).is_file()

    def where(self, name: str) -> str:
        """Return a file's name for messages."""
        return f"{self.subject}: '{self.root / name}'"

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            MissingFile: it is not there or cannot be read.
            InvalidInput: the name leads out of the root, or the file is no regular one.
        """
        try:
            with open_below(self.root, name) as file:
                return file.read()
        except RefusedFile as error:
            raise InvalidInput(f"{self.where(name)}: {error}. Every file must be below the root") from None
        except OSError as error:
            raise MissingFile(f"{self.where(name)}: cannot be read ({error.strerror})") from None

    def text(self, name: str) -> str:
        """Return a file of UTF-8 text; raises as `read`, or InvalidInput if it is none."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{self.where(name)}: not UTF-8 ({error.reason})") from None

    def lines(self, name: str) -> list[list[str]]:
        """Return the fields of each line that is not empty and does not begin with `#`."""
        lines = (line.strip() for line in self.text(name).splitlines())
        return [line.split() for line in lines if line and not line.startswith("#")]

    def json(self, name: str, *, gzipped: bool = False) -> Any:
        """Return the value of a JSON file; raises as `read`, or Damaged."""
        content = self.read(name)
        if gzipped:
            try:
                with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                    content = file.read(LARGEST_JSON_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise Damaged(f"{self.where(name)}: not a whole gzip file ({error}). Copy it again") from None
        return strict_json.parse(content, where=self.where(name))

    def image(self, name: str) -> np.ndarray:
        """Return an image as uint8 (H, W, 3) RGB; raises as `read`, or InvalidInput."""
        try:
            return decode(self.read(name))
        except DecodeError as error:
            raise InvalidInput(f"{self.where(name)}: {error}. Copy it again") from None

    def array(self, name: str) -> np.ndarray:
        """Return the array of a .npy file; raises as `read`, UnsafeFile or Damaged."""
        loaded = self._load(name)
        if not isinstance(loaded, np.ndarray):
            raise InvalidInput(f"{self.where(name)}: expected one array (.npy), found an archive")
        return loaded

    def arrays(self, name: str, wanted: Iterable[str]) -> list[np.ndarray]:
        """Return arrays of a .npz file by name; raises as `array`, or InvalidInput if it lacks one."""
        with self._load(name) as archive:
            if isinstance(archive, np.ndarray):
                raise InvalidInput(f"{self.where(name)}: expected an archive of arrays (.npz), found one array")
            missing = [key for key in wanted if key not in archive.files]
            if missing:
                raise InvalidInput(f"{self.where(name)}: no array '{missing[0]}'; it has {', '.join(archive.files)}")
            return [self._guarded(name, lambda key=key: archive[key]) for key in wanted]

    def _load(self, name: str) -> Any:
        return self._guarded(name, lambda: np.load(io.BytesIO(self.read(name)), allow_pickle=False))

    def _guarded(self, name: str, load: Any) -> Any:
        try:
            return load()
        except (InvalidInput, MissingFile):
            raise
        except (BadZipFile, EOFError, zlib.error, OSError) as error:
            raise Damaged(f"{self.where(name)}: not a whole file of arrays ({error}). Copy it again") from None
        except ValueError as error:
            raise UnsafeFile(f"{self.where(name)}: {error}. Nothing is unpickled") from None


def numbers(fields: Iterable[Any], *, count: int, where: str) -> np.ndarray:
    """Return fields as float64 (count,).

    Raises:
        InvalidInput: another number of them, or one that is no finite number.
    """
    try:
        values = np.array([float(field) for field in fields])
    except (TypeError, ValueError):
        raise InvalidInput(f"{where}: expected {count} numbers, found another value") from None
    if len(values) != count:
        raise InvalidInput(f"{where}: expected {count} numbers, found {len(values)}")
    if not np.isfinite(values).all():
        raise InvalidInput(f"{where}: a number is not finite")
    return values


def sibling(name: str, *parts: str) -> str:
    """Return the name of a file relative to the folder that `name` is in."""
    return str(PurePosixPath(name).parent.joinpath(*parts))


def read_picture(path: Path) -> np.ndarray:
    """Return a picture that a user names as uint8 (H, W, 3) RGB, upright.

    Raises:
        MissingFile: it cannot be read.
        InvalidInput: it cannot be decoded.
    """
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise MissingFile(f"picture '{path}': cannot be read ({error.strerror})") from None
    except DecodeError as error:
        raise InvalidInput(f"picture '{path}': {error}. Give a whole JPEG or PNG file") from None
