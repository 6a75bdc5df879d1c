"""Plan an extraction before it starts: rows, shards, bytes, hours, and what exists already. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from extract.catalogue import Catalogue, DatasetEntry, TeacherEntry, ViewRecipe
from extract.plan.sizes import TokenShape, token_shape
from extract.sources import open_source
from extract.views.stored_bytes import JPEG_BYTES_PER_PX, pixels_row_bytes
from store import Cache, errors
from store import open as open_cache
from store.format import schema
from store.format.schema import PIXELS

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
DUNE_SAMPLES = 100 * 1_281_167  # images that the paper's students are trained on


@dataclass(frozen=True, kw_only=True)
class Count:
    """Number of images in a dataset.

    Attributes:
        images: number of images; None if it is unknown.
        origin: source of the number: image list in the cache, listing of the files, or the catalogue.
        problem: reason why images could not be listed although their folder is here; None if they could.
    """

    images: int | None
    origin: Literal["cache", "files", "expected"]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """Work on one dataset.

    Attributes:
        entry: catalogue entry of the dataset.
        count: number of its images.
        shards: number of shards in each array.
        present: number of shards that exist, by array.
        rows_left: number of rows in shards that do not exist, by array.
    """

    entry: DatasetEntry
    count: Count
    shards: int
    present: Mapping[str, int]
    rows_left: Mapping[str, int]

    @property
    def rows(self) -> int:
        return self.images * self.entry.views

    @property
    def images(self) -> int:
        """Number of images; 0 if it is unknown."""
        return self.count.images or 0


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """Work on pixels, or on one teacher's tokens, over all datasets.

    Datasets of split "val" always hold float16 tokens, so their rows may be larger than those of split "train".

    Attributes:
        array: `pixels` or the teacher's name.
        row_bytes: stored bytes of a row of each split, checksum included; None if the weights are not here and the
            file is unknown.
        rows: number of rows of all datasets of each split.
        rows_left: number of these rows in shards that do not exist.
        rows_per_second: measured or given rate; None if there is none.
        shape: shape of the tokens; None for pixels, or if it is unknown.
        ratio: ratio of the catalogue; None for float16, and for pixels.
    """

    array: str
    row_bytes: Mapping[Split, int | None]
    rows: Mapping[Split, int]
    rows_left: Mapping[Split, int]
    rows_per_second: float | None
    shape: TokenShape | None = None
    ratio: float | None = None

    @property
    def known_size(self) -> bool:
        """Whether the bytes of a row are known."""
        return None not in self.row_bytes.values()

    @property
    def bytes_total(self) -> int:
        return sum(self.bytes_of(rows, split) for split, rows in self.rows.items())

    @property
    def bytes_left(self) -> int:
        return sum(self.bytes_of(rows, split) for split, rows in self.rows_left.items())

    @property
    def seconds_left(self) -> float | None:
        return self.seconds_of(sum(self.rows_left.values()))

    def bytes_of(self, rows: int, split: Split = "train") -> int:
        """Return the bytes of `rows` rows of a split; 0 where the size of a row is unknown."""
        return (self.row_bytes[split] or 0) * rows

    def seconds_of(self, rows: int) -> float | None:
        """Return the seconds to make `rows` rows; None where the rate is unknown."""
        return rows / self.rows_per_second if self.rows_per_second else None if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Work on a whole catalogue.

    Attributes:
        recipe: view recipe.
        datasets: plans of the datasets, in the catalogue's order.
        arrays: plans of the arrays, pixels first.
        free_bytes: free space at the cache; None if it is unknown.
        jpeg_bytes_per_px: bytes of a JPEG over its pixels, measured or a typical value.
        random_note: warning about teachers with random weights; empty without any.
    """

    recipe: ViewRecipe
    datasets: Sequence[DatasetPlan]
    arrays: Sequence[ArrayPlan]
    free_bytes: int | None
    jpeg_bytes_per_px: float = JPEG_BYTES_PER_PX
    random_note: str = ""

    @property
    def image_size(self) -> int:
        return self.recipe.image_size

    @property
    def rows(self) -> int:
        return sum(dataset.rows for dataset in self.datasets)

    @property
    def bytes_total(self) -> int:
        return sum(array.bytes_total for array in self.arrays)

    @property
    def bytes_left(self) -> int:
        return sum(array.bytes_left for array in self.arrays)


def count_images(catalogue: Catalogue, *, cache: Cache | None, count_files: bool) -> dict[str, Count]:
    """Count the images of every dataset, by name. Raises nothing: a plan also reports what cannot be counted.

    Args:
        catalogue: catalogue of the extraction.
        cache: cache in which some datasets may be indexed already.
        count_files: list the images of the other datasets; otherwise, and where their images are not here, the
            expected number is taken.
    """
    return {entry.name: _count(entry, cache, count_files) for entry in catalogue.dataset}


def make_plan(
    catalogue: Catalogue,
    *,
    counts: Mapping[str, Count],
    cache: Cache | None = None,
    rates: Mapping[str, float] | None = None,
    free_bytes: int | None = None,
    jpeg_bytes_per_px: float = JPEG_BYTES_PER_PX,
) -> Plan:
    """Plan the extraction of a catalogue.

    Args:
        catalogue: catalogue of the extraction.
        counts: numbers of images by dataset, from `count_images`.
        cache: cache that may hold a part of it already.
        rates: rows per second by array, where known.
        free_bytes: free space at the cache; None if it is unknown.
        jpeg_bytes_per_px: bytes of a JPEG over its pixels; replaced by those of the cache, where it has some.

    Raises:
        errors.InvalidInput: a teacher's ratio cannot be met.
    """
    recipe = catalogue.recipe
    jpeg_bytes_per_px = _stored_jpeg_bytes_per_px(cache) or jpeg_bytes_per_px
    names = [PIXELS, *(teacher.name for teacher in catalogue.teacher)]
    datasets = [
        _dataset_plan(entry, counts[entry.name], cache, names, recipe.shard_rows) for entry in catalogue.dataset
    ]
    pixel_bytes = pixels_row_bytes(recipe.image_size, recipe.pixels, jpeg_bytes_per_px=jpeg_bytes_per_px)
    pixels = _array_plan(PIXELS, datasets, rates or {}, row_bytes=dict.fromkeys(SPLITS, pixel_bytes))
    tokens = [_tokens_plan(catalogue, teacher, cache, datasets, rates or {}) for teacher in catalogue.teacher]
    return Plan(
        recipe=recipe,
        datasets=datasets,
        arrays=[pixels, *tokens],
        free_bytes=free_bytes,
        jpeg_bytes_per_px=jpeg_bytes_per_px,
        random_note=catalogue.random_note,
    )


def open_if_there(location: str | None, recipe: ViewRecipe) -> Cache | None:
    """Open the cache at a location; None if there is none.

    Raises:
        errors.Conflict: the cache was made by another recipe.
    """
    if location is None:
        return None
    try:
        cache = open_cache(location)
    except errors.MissingCache:
        return None
    differing = schema.differences(cache.recipe, recipe.stored())
    if differing:
        raise errors.Conflict(
            f"cache {location} was made by another recipe: {'; '.join(differing)}. Name another cache"
        )
    return cache


def refuse_misfit(catalogue: Catalogue, location: str | None) -> None:
    """Refuse a catalogue that no plan can be made of, before anything is measured or listed.

    Raises:
        errors.Conflict: the cache was made by another recipe.
        errors.InvalidInput: a teacher's ratio cannot be met.
    """
    cache = open_if_there(location, catalogue.recipe)
    for teacher in catalogue.teacher:
        _token_bytes(teacher, token_shape(catalogue, teacher, cache))


def parse_rates(text: str, teachers: Sequence[str]) -> dict[str, float]:
    """Read rows per second by array from `views=900,dinov2=250`; a bare number applies to every teacher.

    Raises:
        errors.InvalidInput: another form, or an unknown name.
    """
    rates: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.rpartition("=")
        names = {"": list(teachers), "views": [PIXELS], PIXELS: [PIXELS]}.get(name, [name])
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if rate <= 0 or not set(names) <= {PIXELS, *teachers}:
            known = ", ".join(["views", *teachers])
            raise errors.InvalidInput(
                f"--rows-per-second {part}: expected NAME=RATE with a rate above 0 and a name of {known}; or one rate"
            )
        rates |= dict.fromkeys(names, rate)
    return rates


def _count(entry: DatasetEntry, cache: Cache | None, count_files: bool) -> Count:
    if cache is not None and entry.name in cache.datasets:
        return Count(images=cache[entry.name].images, origin="cache")
    problem = None
    if count_files and entry.root.is_dir():
        try:
            return Count(images=len(open_source(entry).enumerate()), origin="files")
        except (errors.CodistillError, OSError) as error:
            problem = str(error)
    return Count(images=entry.expected_images, origin="expected", problem=problem)


def _dataset_plan(
    entry: DatasetEntry, count: Count, cache: Cache | None, arrays: Sequence[str], shard_rows: int
) -> DatasetPlan:
    present = dict.fromkeys(arrays, 0)
    if cache is not None and entry.name in cache.datasets:
        dataset = cache[entry.name]
        present |= {array: len(dataset.present(array)) for array in arrays if array in (PIXELS, *dataset.teachers)}
    rows = (count.images or 0) * entry.views
    shards = -(-rows // shard_rows)
    return DatasetPlan(
        entry=entry,
        count=count,
        shards=shards,
        present=present,
        # Exact unless the shorter last shard is among those that exist.
        rows_left={array: min(rows, (shards - present[array]) * shard_rows) for array in arrays},
    )


def _stored_jpeg_bytes_per_px(cache: Cache | None) -> float | None:
    """Return the bytes of the JPEGs in a cache over their pixels; None if there are none."""
    if cache is None or cache.recipe.get("pixels") != "jpeg":
        return None
    sizes = [(dataset.stored_row_bytes(PIXELS), dataset) for dataset in cache]
    stored = [size / dataset.image_size**2 for size, dataset in sizes if size]
    return sum(stored) / len(stored) if stored else None


def _tokens_plan(
    catalogue: Catalogue,
    teacher: TeacherEntry,
    cache: Cache | None,
    datasets: Sequence[DatasetPlan],
    rates: Mapping[str, float],
) -> ArrayPlan:
    shape = token_shape(catalogue, teacher, cache)
    row_bytes = _token_bytes(teacher, shape)
    return replace(_array_plan(teacher.name, datasets, rates, row_bytes=row_bytes), shape=shape, ratio=teacher.ratio)


def _token_bytes(teacher: TeacherEntry, shape: TokenShape | None) -> dict[Split, int | None]:
    if shape is None:
        return dict.fromkeys(SPLITS)
    try:
        return {"train": shape.row_bytes(teacher.ratio), "val": shape.row_bytes(None)}
    except errors.InvalidInput as error:
        raise errors.InvalidInput(f"teacher '{teacher.name}': {error}") from error


def _array_plan(
    name: str, datasets: Sequence[DatasetPlan], rates: Mapping[str, float], *, row_bytes: Mapping[Split, int | None]
) -> ArrayPlan:
    rows: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    rows_left: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for dataset in datasets:
        rows[dataset.entry.split] += dataset.rows
        rows_left[dataset.entry.split] += dataset.rows_left[name]
    return ArrayPlan(array=name, row_bytes=row_bytes, rows=rows, rows_left=rows_left, rows_per_second=rates.get(name))
