"""Read named arrays of an .npz without unpickling: what a file holds beside them, objects too, is not touched."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from store.common.regular_files import open_regular
from store.common.text import some
from store.errors import Damaged, InvalidInput, MissingFile, RefusedFile, UnsafeFile

Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]


def read_arrays(path: Path, dimensions: Mapping[str, int], *, subject: str) -> Arrays:
    """Read arrays by name.

    Args:
        path: the file.
        dimensions: number of axes of each array, by name.
        subject: what the file should be, for messages, for example `body model`.

    Raises:
        MissingFile: it cannot be opened.
        Damaged: it is cut short.
        UnsafeFile: a wanted array would have to be unpickled.
        InvalidInput: it is no .npz, or arrays are missing or have other numbers of axes; all are listed.
    """
    where = f"{subject} '{path}'"
    try:
        with open_regular(path) as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InvalidInput(f"{where}: expected an .npz file, found a single array")
            missing = [name for name in dimensions if name not in file.files]
            if missing:
                raise InvalidInput(
                    f"{where}: no arrays {', '.join(missing)}; it has {some(sorted(file.files), limit=12)}"
                )
            arrays = {name: file[name] for name in dimensions}
    except (OSError, RefusedFile) as error:
        raise MissingFile(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except (BadZipFile, EOFError, zlib.error) as error:
        raise Damaged(f"{where}: not a whole .npz file ({error}). Copy it again") from None
    except InvalidInput:
        raise
    except ValueError as error:
        raise UnsafeFile(f"{where}: {error}. Expected an .npz of plain arrays; nothing is unpickled") from None
    wrong = [
        f"{name} has shape {array.shape}, expected {dimensions[name]} axes"
        for name, array in arrays.items()
        if array.ndim != dimensions[name]
    ]
    if wrong:
        raise InvalidInput(f"{where}: {'; '.join(wrong)}")
    return arrays


def require_finite(arrays: Arrays, *names: str, where: str) -> None:
    """Refuse arrays that are not real numbers, or not all finite.

    Raises:
        InvalidInput: they are listed.
    """
    wrong = [name for name in names if arrays[name].dtype.kind not in "fiu" or not np.isfinite(arrays[name]).all()]
    if wrong:
        raise InvalidInput(f"{where}: expected finite numbers in {', '.join(wrong)}")
