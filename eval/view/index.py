"""Index of patches for searching: unit vectors on few directions, quantised, so that millions fit in memory.

What it finds are candidates; their true cosines are computed from the stored tokens afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import MissingExtra

ENTRY_BYTES = 10  # number of the dataset, row, patch
FORMS = (  # vectors up to which this form is taken, directions, quantiser of faiss, bits of a value
    (2**20, 128, "QT_fp16", 16),
    (6 * 2**20, 64, "QT_8bit", 8),
    (24 * 2**20, 64, "QT_4bit", 4),
)
MOST_VECTORS = FORMS[-1][0]

Float32 = npt.NDArray[np.float32]


@dataclass
class PatchIndex:
    """Vectors of patches or rows, and what each is of.

    Attributes:
        datasets: names of datasets, by number.
        directions: float32 [C, d], what vectors are projected on; None leaves them whole.
        quantised: index of faiss.
        entries: arrays [n] of number of the dataset, row and patch; patch -1 stands for a whole row.
    """

    datasets: Sequence[str]
    directions: Float32 | None
    quantised: Any
    entries: list[tuple[npt.NDArray[np.int16], npt.NDArray[np.int32], npt.NDArray[np.int32]]] = field(
        default_factory=list
    )

    @property
    def size_bytes(self) -> int:
        """Bytes in memory, about."""
        return int(self.quantised.ntotal) * (int(self.quantised.code_size) + ENTRY_BYTES)

    def add(self, dataset: int, row: int, patches: npt.NDArray[np.integer[Any]], vectors: Float32) -> None:
        """Add vectors [n, C] of length 1 of one row."""
        count = len(patches)
        if not count:
            return
        self.quantised.add(self._projected(vectors))
        numbers = np.full(count, dataset, np.int16), np.full(count, row, np.int32), patches.astype(np.int32)
        self.entries.append(numbers)

    def finish(self) -> None:
        """Join the entries, after the last `add`."""
        if len(self.entries) > 1:
            self.entries = [tuple(np.concatenate(parts) for parts in zip(*self.entries, strict=True))]  # type: ignore[list-item]

    def search(self, query: Float32, count: int) -> list[tuple[str, int, int]]:
        """Return up to `count` candidates (dataset, row, patch) for a vector [C], best first."""
        count = min(count, int(self.quantised.ntotal))
        if not count:
            return []
        _, found = self.quantised.search(self._projected(query[None]), count)
        datasets, rows, patches = self.entries[0]
        places = [place for place in found[0].tolist() if place >= 0]
        return [(self.datasets[int(datasets[p])], int(rows[p]), int(patches[p])) for p in places]

    def _projected(self, vectors: Float32) -> Float32:
        projected = vectors if self.directions is None else vectors @ self.directions
        return np.ascontiguousarray(projected, np.float32)


def empty_index(datasets: Sequence[str], sample: Float32, *, vectors: int) -> PatchIndex:
    """Return an index without vectors.

    Args:
        datasets: names of the datasets that vectors will be of.
        sample: float32 [S, C], unit vectors like those to come; directions and quantiser are fitted to them.
        vectors: number of vectors to come, at most `MOST_VECTORS`.

    Raises:
        MissingExtra: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("searching needs faiss. Run: pip install 'codistill[view]'") from error
    _, size, quantiser, _ = next(form for form in FORMS if vectors <= form[0])
    directions = _directions(sample, size)
    projected = sample if directions is None else sample @ directions
    quantised = faiss.IndexScalarQuantizer(
        projected.shape[1], getattr(faiss.ScalarQuantizer, quantiser), faiss.METRIC_INNER_PRODUCT
    )
    quantised.train(np.ascontiguousarray(projected, np.float32))
    return PatchIndex(datasets=datasets, directions=directions, quantised=quantised)


def _directions(sample: Float32, size: int) -> Float32 | None:
    """Return the directions [C, size] that keep most of the inner products; None if there are no more channels."""
    if sample.shape[1] <= size:
        return None
    _, vectors = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    return np.ascontiguousarray(vectors[:, ::-1][:, :size], np.float32)
