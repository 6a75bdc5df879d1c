"""Where a student fails: the held-out photographs that it knows least of, and those that it knows best."""

import pyarrow as pa

from eval.compare import Aligned, align
from eval.report.blocks import TableBlock
from eval.report.tables import Column, Table, number_cell, text_cell
from eval.standings import KINDS

SHOWN = 5


def block(sums: pa.Table) -> TableBlock | None:
    """The photographs with the lowest cosine on patch tokens and the highest; None if there are too few to choose.

    Args:
        sums: per-image sums of the run (`eval.summary.IMAGE_SUMS`).
    """
    for kind in KINDS:
        found = align({"": sums}, kind=kind)
        if len(found.images) > 1:
            title = f"{kind[:1].upper()}{kind[1:]} that the student knows least of, and best"
            return TableBlock(table=_table(found), title=title, folded=f"Show {kind} by difficulty")
    return None


def _table(found: Aligned) -> Table:
    cosines = [_alone(found, number) for number in range(len(found.images))]
    order = sorted(range(len(cosines)), key=lambda number: cosines[number].score(""))
    shown = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
    columns = [Column(title="Photograph"), Column(title="Mean over teachers", numeric=True)]
    columns += [Column(title=teacher, numeric=True) for teacher in found.teachers]
    rows = [
        [
            text_cell(found.images[number].rpartition("#")[0]),
            number_cell(cosines[number].score("")),
            *(number_cell(cosines[number].score("", teacher=teacher)) for teacher in found.teachers),
        ]
        for number in shown
    ]
    return Table(columns=columns, rows=rows)


def _alone(found: Aligned, number: int) -> Aligned:
    """One image by itself."""
    return Aligned(
        kind=found.kind,
        images=(found.images[number],),
        teachers=found.teachers,
        sums={run: sums[number : number + 1] for run, sums in found.sums.items()},
    )
