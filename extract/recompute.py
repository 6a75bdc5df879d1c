"""Recompute rows for `codistill store verify --repair`: the entry point that `store.verify.recompute` looks for."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from backbones.device import resolve_device
from extract.catalogue import load_catalogue
from extract.job import preflight
from extract.job.worker import Settings, Worker, views_provenance
from extract.teachers.batching import Batching, recompute
from extract.teachers.runner import CPU_BATCH
from store import Cache, Dataset, Shard, errors
from store.format import schema
from store.format.code_encode import EncodedRow
from store.format.manifest import PixelsRow
from store.format.schema import OK, PIXELS
from store.verify.recompute import Recomputer


def recomputer(cache: Cache, *, catalogue: Path | None, device: str) -> Recomputer:
    """Return the recomputer of a cache from the images and weights of a catalogue, which it opens when they are needed.

    Args:
        cache: cache under repair.
        catalogue: catalogue file; None if the user gave none, which is an error once a row is asked for.
        device: device of the teachers.
    """
    return CatalogueRecomputer(cache, catalogue, device)


class CatalogueRecomputer:
    """Recomputes rows with a worker of an extraction job; see `store.verify.recompute.Recomputer`."""

    def __init__(self, cache: Cache, catalogue: Path | None, device: str) -> None:
        self._cache = cache
        self._catalogue_path = catalogue
        self._device = device
        self._batchings: dict[tuple[str, str], Batching] = {}  # of the tokens recomputed last

    def pixels(self, dataset: Dataset, rows: Sequence[int]) -> Iterator[PixelsRow]:
        """See `Recomputer.pixels`."""
        preflight.refuse(preflight.stored_problems(self._cache, [self._worker.entry_of(dataset.whole_name)]))
        maker = self._worker.view_maker(dataset.name)
        for image, image_rows in groupby(rows, key=lambda row: int(row) // dataset.views):
            wanted = [int(row) for row in image_rows]
            views = maker.make(image, range(min(wanted), max(wanted) + 1))
            by_row = {view.record["row"]: view for view in views}
            yield from (by_row[row] for row in wanted)

    def tokens(
        self,
        dataset: Dataset,
        teacher: str,
        *,
        pixels: Shard,
        positions: Sequence[int],
        provenance: Mapping[str, Any],
    ) -> Iterator[np.ndarray | EncodedRow | str]:
        """See `Recomputer.tokens`."""
        runner = self._worker.runner(teacher)
        stored = dataset.teacher(teacher).identity
        differing = schema.differences(stored, schema.plain_json(runner.teacher.identity(dataset.image_size)))
        if differing:
            raise errors.Conflict(f"'{dataset.name}/{teacher}' was made by another teacher. {'; '.join(differing)}")
        batching = Batching.recorded(provenance) or self._other_batching(dataset, teacher)
        self._batchings[dataset.name, teacher] = batching
        first_row = dataset.first_row + pixels.trailer.rows.start
        run = runner.for_shard(self._worker.encoder(dataset, runner), first_row)
        yield from recompute(run, batching, pixels.data, pixels.status == OK, positions)

    def provenance(self, dataset: Dataset, array: str) -> Mapping[str, Any]:
        """See `Recomputer.provenance`."""
        if array == PIXELS:
            return views_provenance()
        return {**self._worker.runner(array).provenance, **self._batchings[dataset.name, array].as_provenance()}

    def _other_batching(self, dataset: Dataset, teacher: str) -> Batching:
        """Return the batching of another shard of these tokens, or that of a new cache."""
        for shard in sorted(dataset.present(teacher)):
            try:
                recorded = Batching.recorded(dataset.read_trailer(teacher, shard).provenance)
            except errors.CodistillError:
                continue  # a damaged shard is expected in a repair
            if recorded is not None:
                return recorded
        cpu = self._worker.runner(teacher).teacher.device.type != "cuda"
        return Batching.for_job(CPU_BATCH, shard_rows=dataset.shard_rows, cpu=cpu)

    @cached_property
    def _worker(self) -> Worker:
        if self._catalogue_path is None:
            raise errors.MissingFile(
                "recomputing rows needs the images and weights. Name them with --catalogue CATALOGUE.toml"
            )
        catalogue = load_catalogue(self._catalogue_path)
        preflight.refuse(
            f"cache {self._cache.location}: recipe.{line}"
            for line in schema.differences(self._cache.recipe, catalogue.recipe.stored())
        )
        settings = Settings(
            location=self._cache.location,
            catalogue=catalogue,
            device=resolve_device(self._device),
            batch_size=None,
            threads=1,
        )
        return Worker(settings, ThreadPoolExecutor(1))
