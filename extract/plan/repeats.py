"""How often a training row is seen, and what to store where that is often: views before bits.

A view that is seen again teaches what it taught before, noise included; another view of the image teaches something
new. So where a view would be seen more than about 15 times, twice the ratio and twice the views teach more at the same
bytes (docs/compact.md); where views are seen a few times, bits are worth more.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from extract.plan.plan import DUNE_SAMPLES, Plan
from extract.plan.stored_forms import stored_form
from store.common.text import human_bytes

MOST_REPEATS = 15.0
RATIOS = (8, 16, 32)  # the least is where a student loses nothing measurable; beyond the last no code is kept
MEANINGFUL_REPEATS = 10_000  # a catalogue beyond it is a trial, for which the paper's budget means nothing


@dataclass(frozen=True, kw_only=True)
class GroupRepeats:
    """Repeats of the training rows of one group of datasets.

    Attributes:
        group: name of the group.
        images: number of its training images.
        rows: number of its training rows.
        samples: number of rows of this group that a training sees.
    """

    group: str
    images: int
    rows: int
    samples: float

    @property
    def times(self) -> float:
        """How often a row is seen."""
        return self.samples / self.rows

    @property
    def proposed_views(self) -> int:
        """Views of each image: doubled while a view would be seen more than MOST_REPEATS times."""
        views = 1
        while self.samples / (self.images * views) > MOST_REPEATS:
            views *= 2
        return views

    @property
    def proposed_ratio(self) -> int:
        """Ratio at the bytes of one view with the first of RATIOS: doubled with the views as far as codes go."""
        return min(RATIOS[0] * self.proposed_views, RATIOS[-1])

    @property
    def proposed_times(self) -> float:
        """How often a row is seen with the proposed views."""
        return self.samples / (self.images * self.proposed_views)


def repeats(plan: Plan, samples: int = DUNE_SAMPLES) -> list[GroupRepeats]:
    """Return the repeats of every group with training rows, when `samples` images come equally from all groups."""
    images: dict[str, int] = {}
    rows: dict[str, int] = {}
    for dataset in plan.datasets:
        if dataset.entry.split == "train":
            group = dataset.entry.group
            images[group] = images.get(group, 0) + dataset.images
            rows[group] = rows.get(group, 0) + dataset.rows
    return [
        GroupRepeats(group=group, images=images[group], rows=count, samples=samples / len(rows))
        for group, count in rows.items()
        if count
    ]


def is_meaningful(groups: list[GroupRepeats]) -> bool:
    """Return whether the repeats tell anything: a catalogue of a few images is a trial."""
    return len(groups) > 1 and max(group.times for group in groups) < MEANINGFUL_REPEATS


def repeats_table(groups: list[GroupRepeats], samples: int) -> Table:
    """Table of one line for each group: how often its rows are seen, and the views and ratio that are proposed."""
    table = Table(title=f"views before bits, for {samples:,} training images", title_justify="left")
    names = ("group", "images", "rows", "a row is seen", "proposed views", "proposed ratio", "a row is then seen")
    for name in names:
        table.add_column(name, justify="left" if name == "group" else "right", no_wrap=True)
    for group in groups:
        table.add_row(
            group.group,
            f"{group.images:,}",
            f"{group.rows:,}",
            f"{group.times:.1f} times",
            str(group.proposed_views),
            f"{group.proposed_ratio}x",
            f"{group.proposed_times:.1f} times",
        )
    return table


def proposal_sentences(plan: Plan, groups: list[GroupRepeats]) -> Iterator[str]:
    """Sentences that turn the proposals of the groups into one catalogue, which has one ratio for each teacher."""
    ratios = sorted({group.proposed_ratio for group in groups})
    rows = sum(group.images * group.proposed_views for group in groups)
    sizes = {ratio: _bytes_with(plan, rows, ratio) for ratio in RATIOS}
    known = {ratio: size for ratio, size in sizes.items() if size is not None}
    views = "/".join(str(group.proposed_views) for group in groups)
    if known:
        told = ", ".join(f"{ratio}x {human_bytes(size)}" for ratio, size in known.items())
        yield f"with {views} views ({rows:,} training rows) and JPEG pixels: {told}"
    if len(ratios) > 1:
        yield (
            f"views are chosen for each dataset, but a teacher has one ratio for all: from {ratios[0]}x, best for what "
            f"is seen rarely, to {ratios[-1]}x, best for what is seen often"
        )
    if plan.free_bytes is not None and known:
        fitting = [ratio for ratio, size in known.items() if size <= plan.free_bytes]
        choice = f"{fitting[0]}x is the least ratio that fits" if fitting else "none of them fits"
        yield f"free at the target: {human_bytes(plan.free_bytes)}: {choice}"


def _bytes_with(plan: Plan, rows: int, ratio: int) -> int | None:
    """Return the bytes of the catalogue with so many training rows, at one ratio and with JPEG pixels."""
    return stored_form(plan, ratio, train_rows=rows).bytes_with_jpeg
