"""Sample the rows of an evaluation, and read them in batches with read-ahead.

Shapes: B rows of a batch, T teachers.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.data.loader import Batch, Loader
from train.data.mixture import Mixture, RowSelection, Source

BATCH = 32
READERS = 2
PREFETCH = 2


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of some sources, in the order in which they lie.

    Attributes:
        sources: sources that the rows belong to.
        rows: the selected rows.
    """

    sources: tuple[Source, ...]
    rows: RowSelection

    def __len__(self) -> int:
        return len(self.rows)

    def images(self) -> np.ndarray:
        """Return the image index of every row within its dataset, int64."""
        views = np.array([source.dataset.views for source in self.sources], dtype=np.int64)
        return np.asarray(self.rows.row // views[self.rows.source])


def spread(sources: Sequence[Source], *, rows_per_source: int, seed: int = 0) -> Selection:
    """Sample at most `rows_per_source` rows of each source, without replacement."""
    limits = [min(rows_per_source, len(source.rows)) for source in sources]
    return _sample(sources, limits, seed=seed)


def balanced(mixture: Mixture, *, rows: int, seed: int = 0) -> Selection:
    """Sample about `rows` training rows, equally many of each group as in a batch, or all of a smaller group."""
    limits = []
    for name, sources in mixture.groups.items():
        wanted = min(rows // len(mixture.groups), mixture.group_rows[name])
        share = wanted / max(1, mixture.group_rows[name])
        limits += [round(share * len(source.rows)) for source in sources]
    return _sample(mixture.sources, limits, seed=seed)


def batches(
    selection: Selection, mixture: Mixture, *, device: torch.device, batch: int = BATCH, raw: bool = False
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Read a selection: yield (indices of rows within it (B,), the batch on the device), valid until the next one.

    What is stored in a code comes as decoded float16 tokens, NaN where the code does not hold a patch; with `raw` as
    codes.
    """
    with Loader(
        sources=selection.sources,
        teachers=mixture.teachers,
        image_size=mixture.image_size,
        plan=lambda step: selection.rows[slice(step * batch, (step + 1) * batch)],
        steps=range(-(-len(selection) // batch)),
        batch=batch,
        device=device,
        readers=READERS,
        prefetch=PREFETCH,
        verify=True,
        raw=raw,
    ) as loader:
        for read in loader:
            yield read.rows.slot, read


def _sample(sources: Sequence[Source], limits: Sequence[int], *, seed: int) -> Selection:
    source_numbers, rows = [], []
    for number, (source, limit) in enumerate(zip(sources, limits, strict=True)):
        # Seeded by name, so that runs with other datasets beside this one are measured on the same rows of it.
        generator = np.random.default_rng([seed, zlib.crc32(source.dataset.name.encode())])
        positions = np.sort(generator.choice(len(source.rows), size=limit, replace=False)).astype(np.int64)
        rows.append(source.rows_at(positions))
        source_numbers.append(np.full(limit, number, dtype=np.int64))
    empty = [np.zeros(0, dtype=np.int64)]
    numbers = np.concatenate(source_numbers or empty)
    selected = RowSelection(source=numbers, row=np.concatenate(rows or empty), slot=np.arange(len(numbers)))
    return Selection(sources=tuple(sources), rows=selected)
