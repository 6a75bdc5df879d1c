"""Recomputing of rows for a repair: the interface that another package implements, and the search for it.

The store itself cannot make rows. A package that can registers a `RecomputerFactory` under the entry-point group
`codistill.recompute`:

    [project.entry-points."codistill.recompute"]
    extract = "extract.recompute:recomputer"
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.cache.reader import Shard
from store.format.manifest import PixelsRow

GROUP = "codistill.recompute"


class Recomputer(Protocol):
    """Recomputes rows of one cache. The store checks everything that it returns."""

    def pixels(self, dataset: Dataset, rows: Sequence[int]) -> Iterable[PixelsRow]:
        """Recompute rows of pixels from the source images, one for each of `rows`, in their order.

        The store accepts only what equals the recorded checksum.

        Raises:
            errors.CodistillError: the source is not available; its message says what is needed.
        """
        ...

    def tokens(
        self,
        dataset: Dataset,
        teacher: str,
        *,
        pixels: Shard,
        positions: Sequence[int],
        provenance: Mapping[str, Any],
    ) -> Iterable[Any]:
        """Recompute some tokens of a shard from its stored pixels.

        The whole shard is given, because last bits may depend on the rows that go through a network together.

        Args:
            dataset: dataset that has the rows.
            teacher: name of the teacher in it.
            pixels: all pixels of the shard, uint8 [rows of the shard, H, W, 3], with their status.
            positions: positions in the shard of the rows to recompute, ascending; all have pixels.
            provenance: what the shard of tokens records of its making; empty if that is lost.

        Returns:
            float16 [tokens, channels] for each position, or a str: the reason why its tokens cannot be stored. Where
            they are stored in a code, they are encoded by the store; an `EncodedRow` is taken as it is.

        Raises:
            errors.Conflict: the available network has another identity than the dataset records.
            errors.CodistillError: no network is available; the message says what is needed.
        """
        ...

    def provenance(self, dataset: Dataset, array: str) -> Mapping[str, Any]:
        """Return the provenance (versions, device) of the rows of an array that were recomputed last, plain JSON."""
        ...


class RecomputerFactory(Protocol):
    """Function that the entry point names. It must be cheap: the recomputer opens sources and networks when asked."""

    def __call__(self, cache: Cache, *, catalogue: Path | None, device: str) -> Recomputer:
        """Return the recomputer of `cache`.

        Args:
            cache: cache under repair.
            catalogue: file with the locations of images and weights; None if the user gave none.
            device: device that teachers run on: `auto`, `cpu`, `cuda`, ...

        Raises:
            errors.CodistillError: the catalogue cannot be used.
        """
        ...


def find_recomputer(cache: Cache, *, catalogue: Path | None, device: str) -> Recomputer | None:
    """Return the recomputer of the first installed package that has one; None if there is none."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        factory: RecomputerFactory = entry.load()
        return factory(cache, catalogue=catalogue, device=device)
    return None
