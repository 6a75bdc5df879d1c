"""A recomputer for the caches of `tests.store.caches`, registered as an installed package would register it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store.format.manifest import PixelsRow
from store.format.schema import PIXELS
from tests.store.caches import CODED_TEACHERS, DATASETS, TEACHERS, pixels_of, record_of, tokens_of

CHANGED = "changed"  # a catalogue of this name stands for source images that have changed


@dataclass(frozen=True)
class FakeRecomputer:
    """Makes rows as the caches were made; writes what it was asked for into `log`."""

    log: Path | None

    def pixels(self, dataset: store.Dataset, rows: Sequence[int]) -> Iterable[PixelsRow]:
        self._note(dataset, PIXELS, len(rows))
        (spec,) = [spec for spec in DATASETS if spec.name == dataset.name]
        changed = self.log is not None and self.log.name == CHANGED
        for row in rows:
            record = record_of(spec, row)
            pixels = None if row in spec.failed else pixels_of(spec.name, row, spec.views) + np.uint8(changed)
            yield PixelsRow(pixels=pixels, error=record.get("error"), record=record)

    def tokens(
        self,
        dataset: store.Dataset,
        teacher: str,
        *,
        pixels: store.Shard,
        positions: Sequence[int],
        provenance: Mapping[str, Any],
    ) -> Iterable[Any]:
        self._note(dataset, teacher, len(positions))
        (spec,) = [spec for spec in (*TEACHERS, *CODED_TEACHERS) if spec.name == teacher]
        assert dataset.teacher(teacher).identity == spec.identity
        return [tokens_of(spec, row) for row in pixels.data[list(positions)]]

    def provenance(self, dataset: store.Dataset, array: str) -> Mapping[str, Any]:
        return {"made_by": "fake recomputer"}

    def _note(self, dataset: store.Dataset, array: str, rows: int) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{dataset.name}/{array} {rows}\n")


def recomputer(cache: store.Cache, *, catalogue: Path | None, device: str) -> FakeRecomputer:
    """See `store.verify.recompute.RecomputerFactory`."""
    return FakeRecomputer(catalogue)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `recomputer` discoverable, and no other."""
    metadata = folder / "fake_recomputer-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-recomputer\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[codistill.recompute]\n_first = tests.store.fake_recomputer:recomputer\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no recomputer discoverable."""
    monkeypatch.setattr("store.verify.recompute.entry_points", lambda group: ())
