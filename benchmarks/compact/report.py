"""Tables of the results, in the terminal and as Markdown: paired differences with intervals over seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from scipy.special import stdtrit

from benchmarks.compact.settings import Record

LEVEL = 0.95
ByName = Mapping[str, Record]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of paired differences.

    Attributes:
        mean: mean over the pairs.
        half_width: half of the interval by Student's t; NaN for a single pair.
        pairs: number of pairs.
    """

    mean: float
    half_width: float
    pairs: int

    def text(self, digits: int = 4) -> str:
        """Return the mean with its sign, and the interval if there is one."""
        interval = "" if math.isnan(self.half_width) else f" ± {self.half_width:.{digits}f}"
        return f"{self.mean:+.{digits}f}{interval}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, console: Console) -> None:
        """Print the table."""
        table = RichTable(*self.header, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def as_markdown(self) -> str:
        """Return the table in Markdown, under its title."""
        marks = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [self._line(self.header), f"|{'|'.join(marks)}|", *map(self._line, self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])

    @staticmethod
    def _line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"


def paired(differences: Sequence[float]) -> Difference:
    """Return the mean of paired differences with its 95 % interval."""
    values = np.asarray(differences, np.float64)
    half_width = math.nan
    if len(values) > 1:
        quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
        half_width = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Difference(mean=float(values.mean()), half_width=half_width, pairs=len(values))


def between(records: Sequence[Record], references: Sequence[Record], measure: Callable[[Record], float]) -> Difference:
    """Return how much more of a measure students have than references of the same seeds."""
    by_seed = {record["seed"]: measure(record) for record in references}
    return paired([measure(record) - by_seed[record["seed"]] for record in records if record["seed"] in by_seed])


def mean(records: Sequence[Record], measure: Callable[[Record], float]) -> float:
    """Return the mean of a measure over seeds."""
    return float(np.mean([measure(record) for record in records]))


def by_arm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each student without its seed, in order."""
    arms: dict[str, list[Record]] = {}
    for record in records:
        arms.setdefault(record["arm"], []).append(record)
    return arms
