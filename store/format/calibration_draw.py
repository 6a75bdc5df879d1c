"""Which rows a code is calibrated on: images drawn equally from the groups of datasets, as a training batch is.

The draw is a function of names and numbers of images alone, and of which rows turn out to be usable: extraction and a
later conversion draw the same rows. One view an image, since images count and not tokens. A cache with too few images
gives all of them in several views; then the halves that check a code hold other views instead of other images.

Legend: N tokens, C channels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store import errors
from store.common import stateless_random
from store.format.calibration_sample import CalibrationSample

FEWEST_IMAGES = 1024
TOKENS_A_CHANNEL = 400

Int64 = npt.NDArray[np.int64]
Float16 = npt.NDArray[np.float16]

Compute = Callable[[str, Sequence[int]], Sequence[Float16 | None]]
"""(dataset, row numbers) -> tokens float16 [N, C] of each row, None where a row has none."""


@dataclass(frozen=True, kw_only=True)
class Drawable:
    """A dataset to draw from: name, group, number of images, rows of each image."""

    name: str
    group: str
    images: int
    views: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One row that was drawn: dataset, image, position of the view among the image's rows, tokens."""

    dataset: str
    image: int
    view: int
    row: int
    tokens: Float16


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """A sample, and how it came about.

    Attributes:
        sample: tokens in an order that mixes groups.
        images: number of different images in it.
        wanted: number of rows that was asked for.
        note: sentence for people where the cache has fewer images than that; empty otherwise.
    """

    sample: CalibrationSample
    images: int
    wanted: int
    note: str


def rows_wanted(*, channels: int, patches: int) -> int:
    """Return how many images a code should be calibrated on."""
    return max(FEWEST_IMAGES, math.ceil(TOKENS_A_CHANNEL * channels / patches))


def draw_sample(
    datasets: Sequence[Drawable],
    *,
    teacher: str,
    wanted: int,
    prefix_tokens: int,
    patch_grid: tuple[int, int],
    compute: Compute,
) -> Draw:
    """Draw rows and compute their tokens.

    Args:
        datasets: training datasets of the mixture.
        teacher: name of the teacher, on which the draw depends.
        wanted: number of rows, from `rows_wanted`.
        prefix_tokens, patch_grid: of the tokens.
        compute: gives the tokens of rows; asked again for others where rows have none.

    Raises:
        errors.InvalidInput: no row has tokens.
    """
    drawer = _Drawer(datasets, teacher=teacher, wanted=wanted, compute=compute)
    drawn = drawer.first_views()
    images, note = len(drawn), ""
    if not drawn:
        names = ", ".join(dataset.name for dataset in datasets) or "none"
        raise errors.InvalidInput(
            f"nothing to calibrate '{teacher}' on: no usable row in the training datasets ({names})"
        )
    if images < wanted:
        drawn = drawer.with_more_views(drawn)
        note = f"calibrated on all {images:,} images, {wanted:,} would be better"
        note += f"; in {len(drawn):,} views" if len(drawn) > images else ""
    ordered = _halved_by_view(drawn, teacher) if len(drawn) > images else _mixed(drawn, teacher)
    rows = np.array([row.row for row in ordered], np.int64)
    tokens = np.stack([row.tokens for row in ordered])
    sample = CalibrationSample(tokens=tokens, rows=rows, prefix_tokens=prefix_tokens, patch_grid=patch_grid)
    return Draw(sample=sample, images=images, wanted=wanted, note=note)


class _Drawer:
    def __init__(self, datasets: Sequence[Drawable], *, teacher: str, wanted: int, compute: Compute) -> None:
        self._datasets = sorted((d for d in datasets if d.images), key=lambda dataset: dataset.name)
        self._teacher, self._wanted, self._compute = teacher, wanted, compute
        self._taken = {dataset.name: 0 for dataset in self._datasets}

    def first_views(self) -> list[Drawn]:
        """Draw the first view of `wanted` images, or of all there are."""
        drawn: list[Drawn] = []
        while len(drawn) < self._wanted:
            left = [dataset for dataset in self._datasets if self._taken[dataset.name] < dataset.images]
            if not left:
                break
            for dataset, count in self._shares(left, self._wanted - len(drawn)):
                drawn += self._tokens(dataset, [(image, 0) for image in self._next_images(dataset, count)])
        return drawn

    def with_more_views(self, drawn: list[Drawn]) -> list[Drawn]:
        """Add further views of the same images, view after view, until there are `wanted` rows or no more."""
        images = {d.name: [row.image for row in drawn if row.dataset == d.name] for d in self._datasets}
        more = list(drawn)
        for view in range(1, max(dataset.views for dataset in self._datasets)):
            for dataset in (dataset for dataset in self._datasets if dataset.views > view):
                keys = [(image, view) for image in images[dataset.name][: self._wanted - len(more)]]
                more += self._tokens(dataset, keys)
            if len(more) >= self._wanted:
                break
        return more

    def _tokens(self, dataset: Drawable, keys: Sequence[tuple[int, int]]) -> Iterator[Drawn]:
        rows = [image * dataset.views + view for image, view in keys]
        for (image, view), row, tokens in zip(keys, rows, self._compute(dataset.name, rows), strict=True):
            if tokens is not None:
                yield Drawn(dataset=dataset.name, image=image, view=view, row=row, tokens=tokens)

    def _next_images(self, dataset: Drawable, count: int) -> list[int]:
        """Return the next images of a dataset in its own random order."""
        first = self._taken[dataset.name]
        self._taken[dataset.name] = first + count
        size = np.full(count, dataset.images, np.int64)
        key = stateless_random.key("calibration", self._teacher, dataset.name)
        keys = np.full(count, key, np.uint64)
        images: list[int] = stateless_random.permute(np.arange(first, first + count), size=size, keys=keys).tolist()
        return images

    def _shares(self, datasets: Sequence[Drawable], wanted: int) -> Iterator[tuple[Drawable, int]]:
        """Yield how many images each dataset gives next, in all at most `wanted`: groups alike, in a group by rows."""
        groups: dict[str, int] = {}
        for dataset in datasets:
            groups[dataset.group] = groups.get(dataset.group, 0) + dataset.images * dataset.views
        left = wanted
        for dataset in datasets:
            share = wanted / len(groups) * dataset.images * dataset.views / groups[dataset.group]
            count = min(max(1, math.floor(share)), dataset.images - self._taken[dataset.name], left)
            left -= count
            if count:
                yield dataset, count


def _mixed(drawn: Sequence[Drawn], teacher: str) -> list[Drawn]:
    """Return the rows in a random order, so that every second one makes halves with rows of all groups."""
    order = stateless_random.uniforms(stateless_random.key("calibration order", teacher), len(drawn)).argsort()
    return [drawn[position] for position in order.tolist()]


def _halved_by_view(drawn: Sequence[Drawn], teacher: str) -> list[Drawn]:
    """Return the rows so that every second one is another view of the images that the others show."""
    mixed = _mixed(drawn, teacher)
    even, odd = ([row for row in mixed if row.view % 2 == half] for half in (0, 1))
    paired = [row for pair in zip(even, odd, strict=False) for row in pair]
    return paired + even[len(odd) :] + odd[len(even) :]
