"""Patch tokens of rows: of teachers, read from the cache; of students and their projections, computed from the pixels.

What was used last stays in memory, as float16 and, for clicks, as unit vectors. A patch has a number: row * columns +
column of its own grid. Shapes: N patches, P prefix tokens, C channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.view.opened import Opened, checked_row
from eval.view.shapes import ArrayShape
from store import errors

STUDENT, PROJECTION = "student:", "projection:"
Float32 = npt.NDArray[np.float32]
Place = tuple[str, int]  # dataset, row


def array_names(opened: Opened, dataset: str) -> list[str]:
    """Return the arrays of tokens of a dataset: its teachers, then students and projections of the runs shown."""
    names = list(opened.listing().teachers[dataset])
    for run_name, run in opened.runs.items():
        names.append(STUDENT + run_name)
        names += [f"{PROJECTION}{run_name}:{teacher}" for teacher in run.teachers]
    return names


def parts_of(array: str) -> tuple[str, str] | None:
    """Return (run, teacher) of an array of a run, the teacher empty for the student itself; None for a teacher."""
    if array.startswith(STUDENT):
        return array.removeprefix(STUDENT), ""
    if array.startswith(PROJECTION):
        run, _, teacher = array.removeprefix(PROJECTION).rpartition(":")
        return run, teacher
    return None


def shape_of(opened: Opened, dataset: str, array: str) -> ArrayShape:
    """Return the shape of an array.

    Raises:
        errors.MissingName: there is none of this name.
    """
    of_run = parts_of(array)
    if of_run is not None:
        return opened.run(of_run[0]).shape(opened.dataset(dataset), of_run[1])
    info = opened.teacher(dataset, array)
    return ArrayShape(grid=info.patch_grid, prefix_tokens=info.prefix_tokens, channels=info.channels)


def read(opened: Opened, dataset: str, rows: Sequence[int], array: str) -> list[npt.NDArray[Any]]:
    """Return the tokens [P + N, C] of rows; NaN where a code does not store a patch. Those in memory are not read.

    Raises:
        errors.MissingName: no such dataset, row or array.
        errors.RowsNotOk: a row failed or is missing.
        errors.Damaged: a checksum differs.
    """
    known: dict[int, Any] = {row: opened.memory.get(("tokens", dataset, array, row)) for row in rows}
    absent = sorted(row for row, tokens in known.items() if tokens is None)
    if absent:
        source = opened.dataset(dataset)
        for row in absent:
            checked_row(source, row)
        for row, tokens in zip(absent, _read(opened, dataset, absent, array), strict=True):
            own = np.ascontiguousarray(tokens)
            own = own.copy() if own.base is not None else own  # a view would keep the whole batch in memory
            opened.memory.put(("tokens", dataset, array, row), own, own.nbytes)
            known[row] = own
    return [known[row] for row in rows]


def read_uncached(opened: Opened, dataset: str, rows: Sequence[int], array: str) -> npt.NDArray[Any]:
    """Return the tokens [B, P + N, C] of rows, for work in the background that must not push out what is shown."""
    return np.asarray(_read(opened, dataset, list(rows), array))


def patches(opened: Opened, dataset: str, row: int, array: str) -> npt.NDArray[Any]:
    """Return the patch tokens [N, C] of a row; raises as `read`."""
    return np.asarray(read(opened, dataset, [row], array)[0][shape_of(opened, dataset, array).prefix_tokens :])


def unit_patches(opened: Opened, dataset: str, rows: Sequence[int], array: str) -> list[Float32]:
    """Return the patches [N, C] of rows as float32 vectors of length 1, or of 0; raises as `read`."""
    prefix = shape_of(opened, dataset, array).prefix_tokens
    known: dict[int, Any] = {row: opened.memory.get(("unit", dataset, array, row)) for row in rows}
    absent = [row for row, vectors in known.items() if vectors is None]
    for row, tokens in zip(absent, read(opened, dataset, absent, array), strict=True):
        vectors = unit(tokens[prefix:])
        opened.memory.put(("unit", dataset, array, row), vectors, vectors.nbytes)
        known[row] = vectors
    return [known[row] for row in rows]


def unit(tokens: npt.NDArray[Any]) -> Float32:
    """Return tokens [..., C] divided by their norms, float32; a token of zeros stays so, NaN stays NaN."""
    values = np.asarray(tokens, np.float32)
    lengths = np.sqrt(np.einsum("...c,...c->...", values, values))[..., None]
    return np.asarray(np.divide(values, lengths, out=np.zeros_like(values), where=lengths != 0))


def at_centre(patch: int, grid: tuple[int, int], other: tuple[int, int]) -> int:
    """Return the patch of another grid that has the centre of this one."""
    row, col = divmod(patch, grid[1])
    other_row = min(other[0] - 1, int((row + 0.5) / grid[0] * other[0]))
    return other_row * other[1] + min(other[1] - 1, int((col + 0.5) / grid[1] * other[1]))


def checked_patches(numbers: Sequence[int], shape: ArrayShape) -> list[int]:
    """Return patch numbers of a grid.

    Raises:
        errors.InvalidInput: none was given, or one is outside the grid.
    """
    outside = [number for number in numbers if not 0 <= number < shape.patches]
    if outside or not numbers:
        found = ", ".join(map(str, outside[:5])) or "none"
        raise errors.InvalidInput(f"patches: expected numbers from 0 to {shape.patches - 1}, found {found}")
    return sorted(set(numbers))


def _read(opened: Opened, dataset: str, rows: list[int], array: str) -> npt.NDArray[Any]:
    of_run = parts_of(array)
    if of_run is not None:
        return opened.run(of_run[0]).tokens(opened.dataset(dataset), rows, of_run[1])
    opened.teacher(dataset, array)
    return opened.dataset(dataset).read(rows, [array])[array]
