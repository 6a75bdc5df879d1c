"""Try codes before anything is extracted: spectrum, noise and slope of several ratios, from images of the sources."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from backbones.device import torch_threads
from extract.catalogue import Catalogue, DatasetEntry, TeacherEntry
from extract.sources import open_source
from extract.teachers.loading import load_teacher
from extract.teachers.runner import CPU_BATCH, GPU_BATCH, TeacherRunner
from extract.views.maker import ViewMaker, ViewRow
from store import errors
from store.common.threads import ordered_map
from store.format import jpeg
from store.format.calibration_draw import Draw, Drawable, draw_sample
from store.format.code_fit import RATIOS, RatioTrial, dry_run
from store.format.distortion import KINDS
from store.format.jpeg import EncodedPixels

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # components of a spectrum that are shown

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class TeacherTrial:
    """Codes of one teacher, tried on images that half of them were not fitted to.

    Attributes:
        teacher: name of the teacher.
        images: number of different images.
        rows: number of rows that were computed.
        note: sentence where there are fewer images than were asked for; empty otherwise.
        spectrum: variances of the components of patch tokens, descending; their mean is 1.
        trials: one a ratio.
    """

    teacher: str
    images: int
    rows: int
    note: str
    spectrum: np.ndarray
    trials: Sequence[RatioTrial]

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON; what is not known is null."""
        fields = {name: getattr(self, name) for name in ("teacher", "images", "rows", "note")}
        return fields | {
            "spectrum": [round(float(value), 6) for value in self.spectrum],
            "ratios": [_trial_json(trial) for trial in self.trials],
        }


@dataclass(frozen=True, kw_only=True)
class SourceImages:
    """Training images of a catalogue that are here, from which views are made without storing them.

    Attributes:
        makers: makers of views by dataset.
        notes: sentences about datasets that are left out.
    """

    makers: dict[str, ViewMaker]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, catalogue: Catalogue) -> "SourceImages":
        """List the images of all training datasets whose folder is here.

        Raises:
            errors.InvalidInput: there are none.
        """
        makers: dict[str, ViewMaker] = {}
        notes: list[str] = []
        for entry in (entry for entry in catalogue.dataset if entry.split == "train"):
            try:
                makers[entry.name] = _view_maker(catalogue, entry)
            except (errors.CodistillError, OSError) as error:
                notes.append(f"without '{entry.name}': {error}")
        if not makers:
            raise errors.InvalidInput(f"no training dataset has images here. {'; '.join(notes)}")
        return cls(makers=makers, notes=tuple(notes))

    def drawable(self) -> list[Drawable]:
        """Return the datasets to draw from."""
        return [
            Drawable(name=name, group=maker.entry.group, images=len(maker.images), views=maker.entry.views)
            for name, maker in self.makers.items()
        ]

    def pixels(self, dataset: str, row: int) -> np.ndarray | None:
        """Return the pixels of a row as teachers see them, uint8 (S, S, 3); None if the image cannot be read."""
        maker = self.makers[dataset]
        (view,) = maker.make(row // maker.entry.views, range(row, row + 1))
        return _seen(view, maker.recipe.image_size)


def try_codes(
    catalogue: Catalogue,
    entry: TeacherEntry,
    sources: SourceImages,
    *,
    device: str,
    threads: int,
    rows: int,
    on_advance: Advance,
) -> TeacherTrial:
    """Try codes of 4, 8, 16 and 32x, and of the teacher's own ratio, on tokens of the sources' images.

    Args:
        catalogue: catalogue of the extraction.
        entry: teacher.
        sources: images to draw from.
        device: device of the teacher.
        threads: threads that render, and on a CPU run the teacher.
        rows: number of rows to compute.
        on_advance: called with the number of rows that were computed.

    Raises:
        errors.InvalidInput: fewer than 4 images can be read.
    """
    runner = TeacherRunner(entry.name, load_teacher(entry, device=device), provenance={})
    teacher, size_px = runner.teacher, catalogue.recipe.image_size
    cuda = teacher.device.type == "cuda"
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:

        def compute(dataset: str, numbers: Sequence[int]) -> list[np.ndarray | None]:
            size = GPU_BATCH if cuda else CPU_BATCH
            batches = [numbers[first : first + size] for first in range(0, len(numbers), size)]
            parts: Iterator[list[np.ndarray | None]]
            if cuda:  # threads render the images of one batch, each
                parts = (_tokens(runner, list(pool.map(partial(sources.pixels, dataset), part))) for part in batches)
            else:
                parts = ordered_map(pool, partial(_batch, runner, sources, dataset), batches, ahead=threads + 1)
            return list(_told(parts, on_advance))

        draw = draw_sample(
            sources.drawable(),
            teacher=entry.name,
            wanted=rows,
            prefix_tokens=teacher.prefix_tokens,
            patch_grid=teacher.patch_grid(size_px, size_px),
            compute=compute,
        )
    return _trial(entry, draw)


def _trial(entry: TeacherEntry, draw: Draw) -> TeacherTrial:
    ratios = sorted({*RATIOS, *([] if entry.ratio is None else [entry.ratio])})
    outcome = dry_run(draw.sample, ratios)
    return TeacherTrial(
        teacher=entry.name,
        images=draw.images,
        rows=draw.sample.images,
        note=draw.note,
        spectrum=outcome.spectrum,
        trials=outcome.trials,
    )


def _batch(runner: TeacherRunner, sources: SourceImages, dataset: str, rows: Sequence[int]) -> list[np.ndarray | None]:
    return _tokens(runner, [sources.pixels(dataset, row) for row in rows])


def _tokens(runner: TeacherRunner, pixels: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Return the tokens of a batch; None where there are no pixels, or where they cannot be stored."""
    usable = [each for each in pixels if each is not None]
    results = iter(runner.tokens(np.stack(usable)) if usable else ())
    made = [None if each is None else next(results) for each in pixels]
    return [None if isinstance(result, str) else result for result in made]


def _told(parts: Iterator[list[np.ndarray | None]], on_advance: Advance) -> Iterator[np.ndarray | None]:
    for part in parts:
        on_advance(sum(row is not None for row in part))
        yield from part


def _view_maker(catalogue: Catalogue, entry: DatasetEntry) -> ViewMaker:
    source = open_source(entry)
    return ViewMaker(entry=entry, recipe=catalogue.recipe, images=source.enumerate().table, source=source)


def _seen(view: ViewRow, size_px: int) -> np.ndarray | None:
    if not isinstance(view.pixels, EncodedPixels):
        return view.pixels
    decoded = np.empty((size_px, size_px, 3), np.uint8)
    jpeg.decode(view.pixels.data, decoded)
    return decoded


def _trial_json(trial: RatioTrial) -> dict[str, Any]:
    code, held_out = trial.code, trial.held_out
    figures: dict[str, Any] = {"ratio": trial.ratio, "problem": trial.problem or None}
    if code is None or held_out is None:
        return figures
    figures |= {
        "bytes_per_row": code.row_bytes,
        "groups": [list(group) for group in code.spec.groups["patch"]],
        "stored_patches": code.spec.stored_patches(code.patches),
    }
    for kind in KINDS if code.prefix_tokens else KINDS[1:]:
        figures[kind] = {
            "noise": held_out.noise(kind),
            "slope": held_out.slope(kind),
            "worst_slope": held_out.worst_slope(kind),
            "cosine_mean": held_out.cosine_mean(kind),
            "cosine_1st_percentile": held_out.cosine_percentile(kind, 1),
        }
    return figures
