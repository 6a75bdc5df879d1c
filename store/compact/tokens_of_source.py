"""The rows of a teacher in the cache that is converted: which there are, and their tokens or codes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.dataset import Dataset
from store.format.distortion import Distortion
from store.format.schema import MISSING, OK, PIXELS
from store.format.statistics import Moments

BLOCK_BYTES = 64 * 2**20
UNKNOWN_REASON = "unknown: the cache that this one was made from does not tell"
NO_DIGEST = "0" * 64  # of pixels that codistill did not write


@dataclass(frozen=True, kw_only=True)
class SourceShard:
    """What is recorded of one shard of a teacher.

    Attributes:
        rows: its row numbers.
        status: uint8 [rows].
        errors: reasons by failed row.
        pixels_digest: digest of the pixel shard that the tokens were computed from.
        provenance: versions, device and the like.
        moments: moments of the true tokens; None where an array of another program has no record of them.
        distortion: what the source's code did to them; None for float16.
    """

    rows: range
    status: npt.NDArray[np.uint8]
    errors: Mapping[int, str]
    pixels_digest: str
    provenance: Mapping[str, Any]
    moments: tuple[Moments | None, Moments] | None
    distortion: Distortion | None

    @property
    def ok_rows(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the ok rows."""
        return np.flatnonzero(self.status == OK) + self.rows.start

    def reason(self, row: int) -> str:
        """Return why a row failed."""
        return self.errors.get(row, UNKNOWN_REASON)


def shards_of(dataset: Dataset, teacher: str) -> list[int]:
    """Return the shards of a teacher that can be converted; of an array without trailers, those with a sealed row."""
    if dataset.array(teacher).layout is not None:
        return sorted(dataset.present(teacher))
    known = dataset.status(teacher) != MISSING
    return [shard for shard in range(dataset.shards) if known[_slice(dataset.shard_rows_of(shard))].any()]


def read_record(dataset: Dataset, teacher: str, shard: int) -> SourceShard:
    """Return what is recorded of a shard.

    Raises:
        errors.MissingShard, errors.Damaged: it cannot be used.
    """
    rows = dataset.shard_rows_of(shard)
    if dataset.array(teacher).layout is not None:
        trailer = dataset.read_trailer(teacher, shard)
        return SourceShard(
            rows=rows,
            status=trailer.status,
            errors=trailer.errors,
            pixels_digest=trailer.pixels_digest or NO_DIGEST,
            provenance=trailer.provenance,
            moments=trailer.moments,
            distortion=trailer.distortion,
        )
    own = dataset.array(PIXELS).layout is not None
    return SourceShard(
        rows=rows,
        status=dataset.status(teacher)[_slice(rows)],
        errors={},
        pixels_digest=dataset.read_trailer(PIXELS, shard).digest if own else NO_DIGEST,
        provenance={},
        moments=None,
        distortion=None,
    )


def blocks(
    dataset: Dataset, teacher: str, rows: Sequence[int] | npt.NDArray[np.int64], *, raw: bool = False
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Yield (row numbers, checked values) of rows, some megabytes at a time."""
    numbers = np.asarray(rows, np.int64)
    shape, dtype = dataset.row_type(teacher, raw=raw)
    size = max(1, BLOCK_BYTES // (int(np.prod(shape)) * dtype.itemsize))
    for first in range(0, len(numbers), size):
        part = numbers[first : first + size]
        yield part, dataset.read(part, [teacher], raw=raw)[teacher]


def usable_tokens(dataset: Dataset, teacher: str, rows: Sequence[int]) -> list[npt.NDArray[np.float16] | None]:
    """Return the tokens of rows, float16 [N, C]; None for rows that failed or are missing."""
    usable = list(rows)
    while usable:
        try:
            found = {
                row: block[i] for part, block in blocks(dataset, teacher, usable) for i, row in enumerate(part.tolist())
            }
            return [found.get(row) for row in rows]
        except errors.RowsNotOk as error:
            bad = set(error.rows)
            usable = [row for row in usable if row not in bad]
    return [None] * len(rows)


def _slice(rows: range) -> slice:
    return slice(rows.start, rows.stop)
