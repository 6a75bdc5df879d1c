"""Lists of image paths: text files, Parquet tables and plain pickles."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from extract.sources.pickles import load_plain, paths_in
from store import errors


def read_list(path: Path) -> list[str]:
    """The paths that a list names, in its order.

    Args:
        path: `.txt` with one UTF-8 path a line (blank lines are left out), `.parquet` with a string column `path`, or
            `.pkl` with nothing but paths in containers (see `extract.sources.pickles`).

    Raises:
        errors.MissingFile: there is no such file.
        errors.InvalidInput: the file is not such a list.
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
    except (UnicodeDecodeError, pa.ArrowInvalid, KeyError) as error:
        raise errors.InvalidInput(f"list '{path}' cannot be read as {path.suffix}: {error}") from error


def _read_text(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = (line.removesuffix("\n").removesuffix("\r") for line in file)
        return [line for line in lines if line.strip()]


def _read_parquet(path: Path) -> list[str]:
    names = pq.read_schema(path).names
    if "path" not in names:
        raise errors.InvalidInput(f"list '{path}': no column 'path'; its columns are {', '.join(names)}")
    return [str(name) for name in pq.read_table(path, columns=["path"])["path"].to_pylist()]


def _read_pickle(path: Path) -> list[str]:
    return paths_in(load_plain(path), path)
