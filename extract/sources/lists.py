"""Lists of image paths: text files and Parquet tables."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store import errors


def read_list(path: Path) -> list[str]:
    """The paths that a list names, in its order.

    Args:
        path: `.txt` with one UTF-8 path a line (blank lines are left out), or `.parquet` with a string column `path`.

    Raises:
        errors.MissingFile: there is no such file.
        errors.InvalidInput: the file is not such a list.
    """
    readers = {".txt": _read_text, ".parquet": _read_parquet}
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
