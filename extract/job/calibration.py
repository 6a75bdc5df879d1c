"""Calibration: the code of a teacher is fitted to a sample of a cache once, then kept for all of its datasets."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from extract.catalogue import TeacherEntry
from extract.teachers.runner import CPU_BATCH, GPU_BATCH, TeacherRunner
from store import Cache, Dataset, errors
from store.cache.shared_code import freeze, stored_code
from store.common.threads import ordered_map
from store.format.calibration_draw import Drawable, draw_sample, rows_wanted
from store.format.code import Code
from store.format.code_fit import fit_code
from store.format.schema import PIXELS

Advance = Callable[[int, int], None]
"""Called with the number of rows that were computed, and the number of all that are wanted."""


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """Outcome of the calibration of one teacher.

    Attributes:
        teacher: name of the teacher.
        digest: digest of the code.
        ratio: its ratio.
        bytes_per_row: bytes of a row in it.
        fitted: whether this job fitted it; False where the cache had it already.
        noise: U of patch tokens, noise over signal, measured on held-out images; NaN if it is not recorded.
        slope: slope of decoded on true values there.
        notes: sentences for people.
    """

    teacher: str
    digest: str
    ratio: float
    bytes_per_row: int
    fitted: bool
    noise: float
    slope: float
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Outcome for people."""
        how = "calibrated" if self.fitted else "kept as it was calibrated"
        told = f"calibrate: the code of '{self.teacher}', {self.ratio:g}x, is {how}: {self.bytes_per_row:,} bytes a row"
        if math.isnan(self.noise):
            return told
        return f"{told}, noise {self.noise:.4f} and slope {self.slope:.4f} on held-out rows"

    def as_json(self) -> dict[str, Any]:
        """Return all fields; numbers that are not known are null."""
        measured = {
            name: None if math.isnan(value) else value for name, value in (("noise", self.noise), ("slope", self.slope))
        }
        return vars(self) | {"notes": list(self.notes)} | measured


def ignore(rows: int, wanted: int) -> None:
    """Progress that nobody watches."""


def coded_datasets(cache: Cache, entry: TeacherEntry, datasets: Iterable[str]) -> list[str]:
    """Return which of these datasets hold codes of a teacher: those of split "train", if it has a ratio."""
    return [] if entry.ratio is None else [name for name in datasets if cache.part(name).split == "train"]


def calibrate(
    cache: Cache,
    entry: TeacherEntry,
    datasets: Sequence[str],
    *,
    runner: TeacherRunner,
    pool: ThreadPoolExecutor | None,
    describe: Callable[[Dataset], dict[str, Any]],
    on_advance: Advance = ignore,
) -> CalibrationReport:
    """Fit the code of a teacher if the cache has none yet, and record it in training datasets.

    Args:
        cache: cache with pixels.
        entry: teacher with a ratio.
        datasets: names of the training datasets, in which the code is recorded.
        runner: the teacher.
        pool: threads that compute batches side by side; None computes one at a time.
        describe: what a dataset records of the teacher, as keywords of `Dataset.create_teacher`.
        on_advance: told of progress.

    Raises:
        errors.InvalidInput: the ratio cannot be met, or the sample is too small.
        errors.Conflict: the cache has another code of this teacher, or its tokens in float16.
    """
    assert entry.ratio is not None
    notes: tuple[str, ...] = ()
    code = stored_code(cache, entry.name)
    fitted = code is None
    if code is None:
        code, notes = _fit(cache, entry, datasets, runner=runner, pool=pool, on_advance=on_advance)
    for name in sorted(datasets):
        code = freeze(
            cache.part(name), code, entry.name, describe(cache.part(name)), first=fitted and name == min(datasets)
        )
    held_out = code.spec.calibration.get("held_out", {}).get("patch", {})
    return CalibrationReport(
        teacher=entry.name,
        digest=code.spec.digest,
        ratio=code.spec.ratio,
        bytes_per_row=code.row_bytes,
        fitted=fitted,
        noise=float(held_out.get("noise", "nan")),
        slope=float(held_out.get("slope", "nan")),
        notes=notes,
    )


def _fit(
    cache: Cache,
    entry: TeacherEntry,
    datasets: Sequence[str],
    *,
    runner: TeacherRunner,
    pool: ThreadPoolExecutor | None,
    on_advance: Advance,
) -> tuple[Code, tuple[str, ...]]:
    assert entry.ratio is not None
    teacher = runner.teacher
    grid = teacher.patch_grid(*(cache.part(datasets[0]).image_size,) * 2)
    wanted = rows_wanted(channels=teacher.channels, patches=grid[0] * grid[1])
    there = sum(cache.part(name).rows for name in datasets)

    def compute(name: str, rows: Sequence[int]) -> list[np.ndarray | None]:
        parts = stored_rows_tokens(cache.part(name), rows, runner, pool=pool)
        return list(told(parts, lambda count: on_advance(count, min(wanted, there))))

    draw = draw_sample(
        [_drawable(cache.part(name)) for name in datasets],
        teacher=entry.name,
        wanted=wanted,
        prefix_tokens=teacher.prefix_tokens,
        patch_grid=grid,
        compute=compute,
    )
    about = {"datasets": sorted(datasets), "different_images": draw.images}
    try:
        code = fit_code(draw.sample, ratio=entry.ratio, about=about)
    except errors.InvalidInput as error:
        raise errors.InvalidInput(f"teacher '{entry.name}': {error}") from error
    return code, (draw.note,) if draw.note else ()


def stored_rows_tokens(
    dataset: Dataset, rows: Sequence[int], runner: TeacherRunner, *, pool: ThreadPoolExecutor | None
) -> Iterator[list[np.ndarray | None]]:
    """Yield the float16 tokens of rows in parts, from their stored pixels; None for rows without pixels or tokens."""

    def compute(part: Sequence[int]) -> list[np.ndarray | None]:
        usable, pixels = _pixels(dataset, part)
        results = iter(runner.tokens(pixels) if usable else ())
        return [_array_or_none(next(results)) if row in usable else None for row in part]

    size = GPU_BATCH if pool is None else CPU_BATCH
    batches = [rows[first : first + size] for first in range(0, len(rows), size)]
    yield from map(compute, batches) if pool is None else ordered_map(pool, compute, batches, ahead=2)


def told(parts: Iterable[list[np.ndarray | None]], on_advance: Callable[[int], None]) -> Iterator[np.ndarray | None]:
    """Yield the rows of all parts, telling how many there are in each."""
    for part in parts:
        on_advance(sum(row is not None for row in part))
        yield from part


def _pixels(dataset: Dataset, rows: Sequence[int]) -> tuple[set[int], np.ndarray]:
    """Return those of `rows` that have pixels, and these pixels, in order."""
    usable = list(rows)
    while usable:
        try:
            return set(usable), dataset.read(usable, [PIXELS])[PIXELS]
        except errors.RowsNotOk as error:
            bad = set(error.rows)
            usable = [row for row in usable if row not in bad]
    return set(), np.empty(0, np.uint8)


def _array_or_none(result: np.ndarray | str) -> np.ndarray | None:
    return None if isinstance(result, str) else result


def _drawable(dataset: Dataset) -> Drawable:
    return Drawable(name=dataset.name, group=dataset.group, images=dataset.images, views=dataset.views)
