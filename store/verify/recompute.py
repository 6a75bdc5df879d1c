"""Making rows anew is not the store's business: what it asks of whoever can, and how it finds them.

Who can recompute rows announces a `RecomputerFactory` under the entry-point group `codistill.recompute`:

    [project.entry-points."codistill.recompute"]
    extract = "extract.recompute:recomputer"
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.format.manifest import PixelsRow

GROUP = "codistill.recompute"


class Recomputer(Protocol):
    """Makes rows of one cache anew. Nothing that it returns is trusted further than its contract below."""

    def pixels(self, dataset: Dataset, rows: Sequence[int]) -> Iterable[PixelsRow]:
        """Make rows of pixels from the source images, one for each of `rows`, in their order.

        The store accepts only what equals the recorded checksum.

        Raises:
            errors.CodistillError: the source is not at hand; its message says what is needed.
        """
        ...

    def tokens(self, dataset: Dataset, teacher: str, pixels: npt.NDArray[np.uint8]) -> Iterable[Any]:
        """Make tokens from stored pixels.

        Args:
            dataset: whose rows.
            teacher: name of the teacher in it.
            pixels: uint8 [B, H, W, 3].

        Returns:
            For each row float16 [tokens, channels], or a str: the reason why its tokens cannot be stored.

        Raises:
            errors.Conflict: the network at hand has not the identity that the dataset records.
            errors.CodistillError: there is no network at hand; the message says what is needed.
        """
        ...

    def provenance(self, dataset: Dataset, array: str) -> Mapping[str, Any]:
        """Return what to record of where rows of `pixels` or of a teacher were made: plain JSON."""
        ...


class RecomputerFactory(Protocol):
    """What the entry point names. Must be cheap: sources and networks are opened when rows are asked for."""

    def __call__(self, cache: Cache, *, catalogue: Path | None, device: str) -> Recomputer:
        """Return what recomputes rows of `cache`.

        Args:
            cache: the cache under repair.
            catalogue: the file that says where images and weights are; None if the user gave none.
            device: where teachers run: `auto`, `cpu`, `cuda`, ...

        Raises:
            errors.CodistillError: the catalogue cannot be used.
        """
        ...


def find_recomputer(cache: Cache, *, catalogue: Path | None, device: str) -> Recomputer | None:
    """Return the recomputer of the first distribution that has one; None if none is installed."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        factory: RecomputerFactory = entry.load()
        return factory(cache, catalogue=catalogue, device=device)
    return None
