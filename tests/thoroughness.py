"""How many cases tests try that kill, damage or fit again and again: some by default, all in `make test-thorough`."""

import os
from collections.abc import Sequence
from typing import TypeVar

Case = TypeVar("Case")

THOROUGH = os.environ.get("CODISTILL_TESTS") == "thorough"


def cases(*, thorough: int, usual: int) -> int:
    """Return the number of cases to try."""
    return thorough if THOROUGH else usual


def some_of(values: Sequence[Case], *, every: int) -> list[Case]:
    """Return all cases in a thorough run; else each `every`-th, with the first and the last."""
    return list(values) if THOROUGH else [*values[:-1:every], *values[-1:]]
