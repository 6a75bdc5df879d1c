"""Batches of a shard: the same rows always go through a teacher in the same way, so that they get the same bits.

The last bits of a row's tokens depend on the size of its batch, on its place in it and on the number of threads that
compute it: matrix products are cut differently. So a shard is cut into fixed windows, each filled up to the full size,
whatever failed in it, and a window is computed by one thread; several windows at once use all CPUs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from backbones.device import torch_threads
from store.format.code_encode import EncodedRow

THREADS = 1  # of one batch on a CPU
MOST_RECORDED = 2**16  # more in a provenance is no batch size
FILLED = "filled"

Row = np.ndarray | EncodedRow  # float16 (T, C), or its codes
RunBatch = Callable[[np.ndarray, Sequence[int]], Sequence[Row | str]]
"""(pixels uint8 (B, H, W, 3), their positions in the shard) -> for each a row, or why it cannot be stored."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the rows of a shard become batches; recorded in its provenance.

    Attributes:
        size: rows of a window.
        filled: fill every window up to its size; caches of earlier versions left out rows without pixels, and their
            last windows were shorter.
        threads: threads of torch that compute a batch on a CPU; None for as many as torch chooses, or on a GPU.
    """

    size: int
    filled: bool = True
    threads: int | None = None

    @classmethod
    def for_job(cls, batch_size: int, *, shard_rows: int, cpu: bool) -> "Batching":
        """Return the batching of new shards.

        Args:
            batch_size: rows that go through a teacher together, at most.
            shard_rows: rows of a full shard.
            cpu: whether the teacher runs on a CPU.
        """
        return cls(size=min(batch_size, shard_rows), threads=THREADS if cpu else None)

    @classmethod
    def recorded(cls, provenance: Mapping[str, Any]) -> "Batching | None":
        """Read the batching of a shard from its provenance; None if it is not there."""
        size, threads = provenance.get("batch_size"), provenance.get("torch_threads")
        if not _is_count(size):  # it is shown and never enforced: anything may stand there
            return None
        filled = provenance.get("batches") == FILLED
        return cls(size=size, filled=filled, threads=threads if _is_count(threads) else None)

    def as_provenance(self) -> dict[str, Any]:
        """Return what `recorded` reads."""
        filled = {"batches": FILLED} if self.filled else {}
        threads = {"torch_threads": self.threads} if self.threads is not None else {}
        return {"batch_size": self.size, **filled, **threads}

    def windows(self, rows: int) -> list[range]:
        """Return the windows of a shard of `rows` rows, as positions in it."""
        return [range(start, min(start + self.size, rows)) for start in range(0, rows, self.size)]

    def compute(self, run: RunBatch, pixels: np.ndarray, usable: np.ndarray, window: range) -> list[Row | str | None]:
        """Compute the tokens of a window.

        Args:
            run: computes a batch.
            pixels: uint8 (rows of the shard, H, W, 3).
            usable: bool (rows of the shard); whether a row has pixels.
            window: positions, from `windows`.

        Returns:
            For each position what `run` gives, the reason why its tokens cannot be stored, or None if it has no pixels.
        """
        positions = [position for position in window if usable[position]]
        if not positions:
            return [None] * len(window)
        taken = self._taken(window, positions)
        contiguous = taken == list(range(taken[0], taken[0] + len(taken)))
        batch = pixels[taken[0] : taken[0] + len(taken)] if contiguous else pixels[taken]
        with torch_threads(self.threads):
            results = run(batch, taken)
        places = [position - window.start for position in positions] if self.filled else range(len(positions))
        own = {position: results[place] for position, place in zip(positions, places, strict=True)}
        return [own.get(position) for position in window]

    def _taken(self, window: range, positions: Sequence[int]) -> list[int]:
        """Return the positions whose pixels make the batch; the first stands for those without, and beyond the end."""
        if not self.filled:
            return list(positions)
        known = set(positions)
        filled = [position if position in known else positions[0] for position in window]
        return filled + [positions[0]] * (self.size - len(window))


def recompute(
    run: RunBatch, batching: Batching, pixels: np.ndarray, usable: np.ndarray, positions: Sequence[int]
) -> Iterator[Row | str]:
    """Compute the tokens of some rows of a shard as they were computed when the shard was made.

    Args:
        run: computes a batch.
        batching: batching of the shard.
        pixels: uint8 (rows of the shard, H, W, 3).
        usable: bool (rows of the shard); whether a row has pixels.
        positions: positions of the rows in the shard, ascending, all usable.

    Yields:
        For each of them what `run` gives, or the reason why its tokens cannot be stored.
    """
    wanted = set(positions)
    for window in batching.windows(len(usable)):
        inside = [position for position in window if position in wanted]
        if not inside:
            continue
        results = batching.compute(run, pixels, usable, window)
        for position in inside:
            result = results[position - window.start]
            assert result is not None
            yield result


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RECORDED
