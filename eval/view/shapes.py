"""Shapes of arrays of tokens, and what the page asks of a run that is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import store


@dataclass(frozen=True, kw_only=True)
class ArrayShape:
    """Shape of the tokens of an array.

    Attributes:
        grid: (rows, cols) of patches.
        prefix_tokens: tokens before the patches.
        channels: values of a token.
    """

    grid: tuple[int, int]
    prefix_tokens: int
    channels: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]


class StudentRun(Protocol):
    """A run to show beside the teachers; `eval.view.runs.ShownRun` is one."""

    directory: Path

    @property
    def teachers(self) -> list[str]:
        """Teachers that it was trained on."""
        ...

    def load(self) -> None:
        """Load its modules before something of it is drawn."""
        ...

    def shape(self, dataset: store.Dataset, teacher: str) -> ArrayShape:
        """Return the shape of its projection to a teacher, or of its own tokens if `teacher` is empty."""
        ...

    def tokens(self, dataset: store.Dataset, rows: Sequence[int], teacher: str) -> npt.NDArray[np.float16]:
        """Return tokens [B, P + N, C] of rows: its own, or projected to a teacher."""
        ...

    def error(self, opened: Any, dataset: str, row: int, teacher: str) -> npt.NDArray[np.float64]:
        """Return 1 - cosine [N] between projection and teacher; `opened` is what is shown."""
        ...
