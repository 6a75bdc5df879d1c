"""Read lists of image paths: text files, Parquet tables and pickles.

Pickles may hold containers, strings and numbers; anything else is refused and nothing in the file is run.
"""

import collections
import os
import pickle
import pickletools
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any

from extract.sources.parquet_columns import ParquetColumns, is_text
from store import errors
from store.common.regular_files import open_regular

NUMBERING = ("PUT", "BINPUT", "LONG_BINPUT")  # pickle's operations that number an object
LONGEST_LINE_BYTES = 2**16  # file systems allow paths of 4096 bytes

# Containers that pickle builds by a call; tuples, lists, dicts, strings and numbers have opcodes of their own.
CONTAINERS: dict[tuple[str, str], type] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


def read_list(path: Path) -> list[str]:
    """Return the paths that a list names, in its order.

    Args:
        path: `.txt` with one UTF-8 path a line (blank lines are skipped), `.parquet` with a string column `path`, or
            `.pkl` with paths in containers, in a structure that `paths_in` knows.

    Raises:
        errors.MissingFile: there is no such file.
        errors.InvalidInput: the file is not a list of one of these kinds.
        errors.UnsafeFile: a pickle that holds more than containers, strings and numbers.
    """
    readers = {".txt": _read_text, ".parquet": _read_parquet, ".pkl": _read_pickle, ".pickle": _read_pickle}
    reader = readers.get(path.suffix)
    if reader is None:
        raise errors.InvalidInput(f"list '{path}': unknown kind '{path.suffix}'. Expected one of {', '.join(readers)}")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise errors.MissingFile(f"list '{path}' does not exist. Correct `list` in the catalogue") from error
    except errors.RefusedFile as error:
        raise errors.InvalidInput(f"list '{path}': {error}. Expected a file, as it is read more than once") from error
    except UnicodeDecodeError as error:
        raise errors.InvalidInput(f"list '{path}' cannot be read as {path.suffix}: {error}") from error


def load_plain(path: Path) -> Any:
    """Unpickle containers, strings and numbers.

    Raises:
        errors.UnsafeFile: the file holds anything else; nothing of it was run.
        errors.InvalidInput: the file is no pickle, or cut short.
        FileNotFoundError: there is no such file.
    """
    with open_regular(path) as file:
        try:
            _check_memo(file)
            return _PlainUnpickler(file, path).load()
        except errors.UnsafeFile:
            raise
        except Exception as error:  # damaged pickles raise whatever their bytes happen to mean
            raise errors.InvalidInput(f"list '{path}' is not a pickle of paths: {error}") from error


def paths_in(content: Any, path: Path) -> list[str]:
    """Return the paths in unpickled content.

    Known structures: a list of paths or of `(path, class)`, as torchvision stores samples; `(root, list)`, as MASt3R's
    lists; a dict with paths as keys, as UBody's.

    Raises:
        errors.InvalidInput: another structure.
    """
    if _is_pair(content) and isinstance(content[1], tuple | list):
        content = content[1]  # the first is the root on the authors' machine
    if isinstance(content, dict | list | tuple | set | frozenset):
        names = [item[0] if _is_pair(item) and isinstance(item[1], int) else item for item in content]
        if all(isinstance(name, str) for name in names):
            return names
    raise errors.InvalidInput(
        f"list '{path}': expected paths, (path, class), (root, paths), or a dict with paths as keys; found "
        f"{_outline(content)}. Write the paths to a .txt instead, one a line"
    )


def _read_text(path: Path) -> list[str]:
    paths: list[str] = []
    with open_regular(path) as file:
        for number in count(1):
            line = file.readline(LONGEST_LINE_BYTES + 1)
            if not line:
                break
            if len(line) > LONGEST_LINE_BYTES:
                raise errors.InvalidInput(f"list '{path}': line {number} is longer than {LONGEST_LINE_BYTES} bytes")
            text = line.decode().removesuffix("\n").removesuffix("\r")
            if text.strip():
                paths.append(text)
    return paths


def _read_parquet(path: Path) -> list[str]:
    subject = f"list '{path}'"
    with ParquetColumns(open_regular(path), subject) as opened:
        kind = opened.type_of("path")
        if kind is None:
            raise opened.invalid(f"no column 'path'; its columns are {', '.join(opened.schema.names)}")
        if not is_text(kind):
            raise opened.invalid(f"column 'path' is {kind}, expected string")
        paths = list(opened.texts("path"))
    missing = sum(name is None for name in paths)
    if missing:
        raise errors.InvalidInput(f"{subject}: {missing} of {len(paths)} rows have no path")
    return [name for name in paths if name is not None]


def _read_pickle(path: Path) -> list[str]:
    return paths_in(load_plain(path), path)


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> type:
        """Return the container of this name; refuse anything else."""
        if (module, name) not in CONTAINERS:
            raise errors.UnsafeFile(
                f"list '{self._path}': would have to run '{module}.{name}' to be read. Only containers, strings and "
                "numbers are. Where you trust it, load it yourself and write the paths to a .txt, one a line"
            )
        return CONTAINERS[module, name]


def _check_memo(file: BufferedReader) -> None:
    """Raise ValueError if a pickle numbers an object so high that the table of all numbers would fill memory."""
    limit = os.fstat(file.fileno()).st_size  # every numbered object takes a byte at least
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in NUMBERING and isinstance(argument, int) and argument > limit:
            raise ValueError(f"it numbers an object {argument} in a file of {limit} bytes")
    file.seek(0)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], str)


def _outline(content: Any) -> str:
    if isinstance(content, dict | list | tuple | set | frozenset):
        kinds = sorted({type(item).__name__ for item in content})
        return f"{type(content).__name__} of {', '.join(kinds) or 'nothing'}"
    return type(content).__name__
