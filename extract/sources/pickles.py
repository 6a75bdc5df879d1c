"""Pickled lists (as MASt3R's and UBody's) read without running anything they hold."""

import collections
import pickle
from pathlib import Path
from typing import Any

from store import errors

# Containers that pickle builds by a call; tuples, lists, dicts, strings and numbers have opcodes of their own.
CONTAINERS: dict[tuple[str, str], type] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


def load_plain(path: Path) -> Any:
    """Unpickle containers, strings and numbers.

    Raises:
        errors.UnsafeFile: the file holds anything else; nothing of it was run.
        errors.InvalidInput: it is no pickle, or cut short.
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as file:
        try:
            return _PlainUnpickler(file, path).load()
        except errors.UnsafeFile:
            raise
        except Exception as error:  # damaged pickles raise whatever their bytes happen to mean
            raise errors.InvalidInput(f"list '{path}' is not a pickle of paths: {error}") from error


def paths_in(content: Any, path: Path) -> list[str]:
    """The paths that unpickled content names.

    That is a list of them or of `(path, class)` as torchvision keeps samples, `(root, list)` as MASt3R's lists, or a
    dict's keys as UBody's.

    Raises:
        errors.InvalidInput: another structure.
    """
    if _is_pair(content) and isinstance(content[1], tuple | list):
        content = content[1]  # the first is the authors' own root
    if isinstance(content, dict | list | tuple | set | frozenset):
        names = [item[0] if _is_pair(item) and isinstance(item[1], int) else item for item in content]
        if all(isinstance(name, str) for name in names):
            return names
    raise errors.InvalidInput(
        f"list '{path}': expected paths, (path, class), (root, paths), or a dict with paths as keys; found "
        f"{_outline(content)}. Write the paths to a .txt instead, one a line"
    )


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> type:
        """Allow containers and nothing else."""
        if (module, name) not in CONTAINERS:
            raise errors.UnsafeFile(
                f"list '{self._path}': would have to run '{module}.{name}' to be read. Only containers, strings and "
                "numbers are. Where you trust it, load it yourself and write the paths to a .txt, one a line"
            )
        return CONTAINERS[module, name]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], str)


def _outline(content: Any) -> str:
    if isinstance(content, dict | list | tuple | set | frozenset):
        kinds = sorted({type(item).__name__ for item in content})
        return f"{type(content).__name__} of {', '.join(kinds) or 'nothing'}"
    return type(content).__name__
