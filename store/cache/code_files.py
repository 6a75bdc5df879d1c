"""Arrays of a teacher's code in a cache: written once, by create-if-absent, and checked whenever they are read."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from store import errors
from store.format import schema
from store.format.code import Code
from store.format.code_schema import code_arrays, code_path
from store.format.code_spec import CodeSpec
from store.format.schema import CODES
from store.storage.base import Storage


def attributes_of(code: Code) -> dict[str, Any]:
    """Return the attributes that `codes` has beside those of `tokens`."""
    return {
        "requires": [CODES],
        "channels": code.channels,
        "prefix_bytes": code.prefix_bytes,
        "code": schema.plain_json(code.spec.as_attributes()),
    }


def refuse_other_sizes(code: Code, sizes: Mapping[str, Any], *, teacher: str) -> None:
    """Refuse a code that was made for tokens of other sizes.

    Raises:
        errors.InvalidInput: both values are shown.
    """
    of_code = {
        "patch_grid": list(code.patch_grid),
        "prefix_tokens": code.prefix_tokens,
        "channels": code.channels,
    }
    differing = [
        f"{key}: the code has {of_code[key]}, the teacher {sizes[key]}" for key in of_code if of_code[key] != sizes[key]
    ]
    if differing:
        raise errors.InvalidInput(f"{teacher} cannot be stored in this code. {'; '.join(differing)}")


def write_code(storage: Storage, code: Code, *, dataset: str, teacher: str) -> None:
    """Write the arrays of a code that are not there yet; those of an interrupted creation are kept.

    The document of the `codes` array must be there already and name this code: whoever writes arrays of another one
    would have been refused, so that all writers write the same.
    """
    files = code_arrays(dataset, teacher, code.spec)
    storage.put_if_absent(f"{code_path(dataset, teacher)}/zarr.json", schema.group_document())
    for name, values in code.arrays().items():
        storage.put_if_absent(files[name].key, files[name].encode(values))
        storage.put_if_absent(files[name].document_key, files[name].document)


def read_code(
    storage: Storage,
    *,
    dataset: str,
    teacher: str,
    spec: CodeSpec,
    prefix_tokens: int,
    patch_grid: tuple[int, int],
) -> Code:
    """Read the arrays of a code; only those whose checksums hold and that together have the recorded digest.

    Raises:
        errors.Damaged: one is absent or damaged, or they are not the code that was recorded.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    exits = f"Run: codistill store verify {storage.location} --repair"
    for name, file in code_arrays(dataset, teacher, spec).items():
        try:
            values = file.decode(storage.read(file.key, limit=file.stored_bytes))
        except FileNotFoundError:
            raise errors.Damaged(
                f"'{file.key}' is absent, and '{dataset}/{teacher}' is stored in its code. {exits}"
            ) from None
        except errors.Damaged:
            values = None
        if values is None:
            raise errors.Damaged(f"'{file.key}': its size or checksum differs. {exits}")
        arrays[name] = values
    where = f"'{code_path(dataset, teacher)}'"
    return Code.from_arrays(spec, arrays, prefix_tokens=prefix_tokens, patch_grid=patch_grid, where=where)
