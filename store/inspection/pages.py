"""Pages of `codistill store show`: each at most a screen, all with the same scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.dataset import Dataset
from store.common.text import some
from store.inspection import figure, legend
from store.inspection.row_view import gather, gather_patches
from store.inspection.scales import scales_of

SCALE_ROWS = 32  # of the chosen rows, spread evenly, that scales are found on
MOST_PAGES = 50  # drawn at once


@dataclass(frozen=True, kw_only=True)
class DrawnPage:
    """A page that was drawn: its number from 1, its file, and its rows."""

    number: int
    file: Path
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Pages of some rows.

    Attributes:
        dataset: name of the dataset.
        chosen: rows of all pages.
        drawn: pages that were drawn.
        total: pages that the rows have.
    """

    dataset: str
    chosen: int
    drawn: Sequence[DrawnPage]
    total: int

    def __str__(self) -> str:
        """Say what was drawn where."""
        count = sum(len(page.rows) for page in self.drawn)
        rows = f"{count:,}{f' of {self.chosen:,}' if count < self.chosen else ''} row{'s' if self.chosen > 1 else ''}"
        part = f", page {self.drawn[0].number:,} of {self.total:,}," if len(self.drawn) < self.total else ""
        return f"drew {rows} of '{self.dataset}'{part} into {some((page.file for page in self.drawn), limit=3)}"


def draw_pages(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    out: Path,
    *,
    page: int | None = None,
    rows_per_page: int | None = None,
    teachers: Sequence[str] | None = None,
    images: Path | None = None,
    patch: tuple[int, int] | None = None,
) -> Pages:
    """Plot rows, as many on a page as fit a screen.

    Args:
        dataset: dataset of the rows.
        rows: row numbers, in the order to show them.
        out: picture file; its suffix chooses the format. Several pages go into `NAME-1.png`, `NAME-2.png`, ...
        page: number of the only page to draw, from 1, into `out` itself; None draws all.
        rows_per_page: rows on a page; None takes as many as fit, and more than that are not taken.
        teachers: teacher names; None takes all.
        images: folder that the paths of the image list are relative to; None tries the one that the dataset records.
        patch: (row, col) that similarities are to; None takes the central one.

    Raises:
        errors.InvalidInput: there is no such page, or there are too many to draw at once.
        errors.CodistillError: as `gather` and `plot_rows`.
    """
    figure.check_output(out)
    infos = {name: dataset.teacher(name) for name in (dataset.teachers if teachers is None else teachers)}
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, min(SCALE_ROWS, len(rows))).astype(np.int64))]
    scales = scales_of(gather_patches(dataset, sample.tolist(), infos), infos, patch=patch)
    first = gather(dataset, rows[:1].tolist(), teachers=list(infos), images=images)  # tells if there are photographs
    lines = legend.entries(scales, chosen_rows=len(rows), photograph=True, notes=["x"])
    per_page = figure.rows_that_fit(first, lines)
    per_page = min(per_page, rows_per_page or per_page)
    total = -(-len(rows) // per_page)
    if page is not None and not 1 <= page <= total:
        raise errors.InvalidInput(f"--page {page}: {len(rows):,} rows have pages 1 to {total:,}, of {per_page} rows")
    if page is None and total > MOST_PAGES:
        raise errors.InvalidInput(
            f"{len(rows):,} rows are {total:,} pages of {per_page}; at most {MOST_PAGES} are drawn at once. Pass "
            "--page N for one of them, or choose fewer rows"
        )
    drawn = []
    for number in range(1, total + 1) if page is None else [page]:
        here = rows[(number - 1) * per_page : number * per_page]
        shown = first if len(rows) == 1 else gather(dataset, here.tolist(), teachers=list(infos), images=images)
        file = out if page is not None or total == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
        title = f"page {number:,} of {total:,}" if total > 1 else ""
        tall = per_page == 1 or len(rows) == 1
        figure.plot_rows(shown, file, scales=scales, chosen_rows=len(rows), tall=tall, title=title)
        drawn.append(DrawnPage(number=number, file=file, rows=here))
    return Pages(dataset=dataset.name, chosen=len(rows), drawn=drawn, total=total)
