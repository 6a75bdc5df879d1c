"""Views of the rows of a dataset: which rows, and what each of them holds, read when it is asked for."""

import importlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from store import errors
from store.format.schema import FAILED, MISSING, OK, PIXELS

STATES = {MISSING: "missing", OK: "ok", FAILED: "failed"}
RowNumbers = range | npt.NDArray[np.int64]
NOTEBOOK = "store.inspection.notebook"  # stands above this module, and is needed by notebooks alone
ROWS_SHOWN = 6  # numbers of rows in a text


class ReadableRows(Protocol):
    """What a view needs of a dataset."""

    name: str
    rows: int

    @property
    def teachers(self) -> tuple[str, ...]: ...

    def read(self, rows: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, npt.NDArray[Any]]: ...

    def status_of(self, array: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]: ...


class Row(Mapping[str, npt.NDArray[Any]]):
    """One row: a mapping from `pixels` and the names of teachers to what is stored, read at every access.

    `row["pixels"]` is uint8 [H, W, 3], `row["dinov2"]` float16 [N, C], codes decoded. What failed or is missing raises
    `errors.RowsNotOk` with the reason; `status` tells it beforehand.

    Attributes:
        dataset: dataset of the row.
        number: number of the row.
    """

    def __init__(self, dataset: Any, number: int) -> None:
        self.dataset, self.number = dataset, number

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.dataset.read(np.array([self.number]), [name])[name][0]
        return values

    def __iter__(self) -> Iterator[str]:
        return iter((PIXELS, *self.dataset.teachers))

    def __len__(self) -> int:
        return 1 + len(self.dataset.teachers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and (self.number, self._where) == (other.number, other._where)

    def __hash__(self) -> int:
        return hash((self.number, self._where))

    def __repr__(self) -> str:
        return f"Row({self.number} of '{self.dataset.name}')"

    @property
    def status(self) -> dict[str, str]:
        """Status of `pixels` and of every teacher: ok, failed or missing; needs no seal."""
        numbers = np.array([self.number])
        return {name: STATES[int(self.dataset.status_of(name, numbers)[0])] for name in self}

    @property
    def _where(self) -> tuple[str, str]:
        return self.dataset.storage.location, self.dataset.name


class Rows(Sequence[Row]):
    """Some rows of a dataset, in order; a view that reads nothing until a row's arrays are asked for.

    Attributes:
        dataset: dataset of the rows.
        numbers: row numbers.
    """

    def __init__(self, dataset: Any, numbers: RowNumbers) -> None:
        self.dataset, self.numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice) -> "Rows": ...

    def __getitem__(self, key: Any) -> "Row | Rows":
        if isinstance(key, slice):
            return Rows(self.dataset, self.numbers[key])
        return Row(self.dataset, int(self.numbers[position(key, len(self), owner=repr(self))]))

    def __iter__(self) -> Iterator[Row]:
        return (Row(self.dataset, int(number)) for number in self.numbers)

    def __repr__(self) -> str:
        numbers = self.numbers
        shown = ", ".join(str(int(number)) for number in numbers[:ROWS_SHOWN])
        if isinstance(numbers, range):
            shown = f"{numbers.start}..{numbers.stop - 1}" if len(numbers) > 1 and numbers.step == 1 else str(numbers)
        dots = ", ..." if len(numbers) > ROWS_SHOWN and not isinstance(numbers, range) else ""
        return f"Rows({len(self)} of '{self.dataset.name}': {shown}{dots})"

    def read(self, names: Sequence[str] | None = None, **options: Any) -> dict[str, npt.NDArray[Any]]:
        """Return all these rows of several arrays at once; see `Dataset.read`.

        Args:
            names: `pixels` and teachers; None takes all.
            options: `out`, `verify`, `raw` and `places` of `Dataset.read`.
        """
        wanted = (PIXELS, *self.dataset.teachers) if names is None else names
        read: dict[str, npt.NDArray[Any]] = self.dataset.read(np.asarray(self.numbers, np.int64), wanted, **options)
        return read

    def _repr_html_(self) -> str:
        return html_of(self)


def html_of(shown: Any) -> str:
    """Return what a notebook shows of a dataset or of rows: text and thumbnails, for which `inspection` is loaded."""
    html: str = importlib.import_module(NOTEBOOK).html(shown)
    return html


def position(key: Any, length: int, *, owner: str) -> int:
    """Return the position that an index means, counted from the end if it is negative.

    Raises:
        errors.InvalidInput: it is no integer.
        errors.MissingRow: there is no such position; also an `IndexError`, which ends a loop.
    """
    try:
        index = operator.index(key)
    except TypeError:
        hint = " Arrays are read by name with read(rows, names)" if isinstance(key, str) else ""
        raise errors.InvalidInput(f"{owner}[{key!r}]: expected a row number or a slice.{hint}") from None
    if not -length <= index < length:
        raise errors.MissingRow(f"{owner}[{index}]: it has {length} rows")
    return index % length


def as_row_numbers(rows: int, key: Any, *, owner: str) -> RowNumbers:
    """Return the row numbers that a slice, a range, a list of numbers or a mask means, in its order.

    Args:
        rows: number of rows of the dataset.
        key: slice, range, integers, or bool of each row.
        owner: name of the dataset, for messages.

    Raises:
        errors.InvalidInput: it is none of these, or names rows that do not exist.
    """
    if isinstance(key, slice):
        return range(rows)[key]
    if isinstance(key, range):
        numbers: RowNumbers = key
        ends = [key[0], key[-1]] if key else []
    else:
        given = np.asarray(key)
        if given.dtype == np.bool_ and given.shape == (rows,):
            return np.flatnonzero(given)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            found = f"{given.dtype} {given.shape}"
            raise errors.InvalidInput(f"rows of '{owner}': expected a slice, integers or {rows} bools, found {found}")
        numbers = given.astype(np.int64)
        ends = [int(numbers.min()), int(numbers.max())] if len(numbers) else []
    outside = sorted({row for row in ends if not 0 <= row < rows})
    if outside:
        raise errors.InvalidInput(f"rows {', '.join(map(str, outside))} are not in '{owner}', which has 0..{rows - 1}")
    return numbers
