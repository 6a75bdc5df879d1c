"""Plan an extraction before it starts: rows, shards, bytes, hours, and what exists already. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extract.catalogue import Catalogue, DatasetEntry, TeacherEntry, ViewRecipe
from extract.sources import open_source
from extract.teachers.options import STUDENT_PATCH_PX
from extract.teachers.registry import known_teachers
from store import Cache, errors
from store import open as open_cache
from store.format import schema
from store.format.layout import CHECKSUM_BYTES
from store.format.schema import PIXELS

FLOAT16_BYTES = 2
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

    Attributes:
        array: `pixels` or the teacher's name.
        row_bytes: stored bytes of a row, checksum included; None if the weights are not here and the file is unknown.
        rows: number of rows of all datasets.
        rows_left: number of rows in shards that do not exist.
        rows_per_second: measured or given rate; None if there is none.
    """

    array: str
    row_bytes: int | None
    rows: int
    rows_left: int
    rows_per_second: float | None

    @property
    def bytes_left(self) -> int:
        return self.bytes_of(self.rows_left)

    @property
    def seconds_left(self) -> float | None:
        return self.seconds_of(self.rows_left)

    def bytes_of(self, rows: int) -> int:
        """Return the bytes of `rows` rows; 0 where the size of a row is unknown."""
        return (self.row_bytes or 0) * rows

    def seconds_of(self, rows: int) -> float | None:
        """Return the seconds to make `rows` rows; None where the rate is unknown."""
        return rows / self.rows_per_second if self.rows_per_second else None if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Work on a whole catalogue.

    Attributes:
        image_size: side of the views, px.
        datasets: plans of the datasets, in the catalogue's order.
        arrays: plans of the arrays, pixels first.
        free_bytes: free space at the cache; None if it is unknown.
    """

    image_size: int
    datasets: Sequence[DatasetPlan]
    arrays: Sequence[ArrayPlan]
    free_bytes: int | None

    @property
    def bytes_total(self) -> int:
        return sum(array.bytes_of(array.rows) for array in self.arrays)

    @property
    def bytes_left(self) -> int:
        return sum(array.bytes_left for array in self.arrays)

    def repeats(self, samples: int = DUNE_SAMPLES) -> dict[str, float]:
        """Return how often each training row of a group is seen when `samples` images come equally from all groups."""
        rows: dict[str, int] = {}
        for dataset in self.datasets:
            if dataset.entry.split == "train":
                rows[dataset.entry.group] = rows.get(dataset.entry.group, 0) + dataset.rows
        return {group: samples / len(rows) / count for group, count in rows.items() if count}


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
) -> Plan:
    """Plan the extraction of a catalogue.

    Args:
        catalogue: catalogue of the extraction.
        counts: numbers of images by dataset, from `count_images`.
        cache: cache that may hold a part of it already.
        rates: rows per second by array, where known.
        free_bytes: free space at the cache; None if it is unknown.
    """
    arrays = [PIXELS, *(teacher.name for teacher in catalogue.teacher)]
    datasets = [
        _dataset_plan(entry, counts[entry.name], cache, arrays, catalogue.recipe.shard_rows)
        for entry in catalogue.dataset
    ]
    sizes: dict[str, int | None] = {PIXELS: catalogue.recipe.image_size**2 * 3 + CHECKSUM_BYTES}
    sizes |= {teacher.name: _token_bytes(catalogue, teacher, cache) for teacher in catalogue.teacher}
    return Plan(
        image_size=catalogue.recipe.image_size,
        datasets=datasets,
        arrays=[
            ArrayPlan(
                array=array,
                row_bytes=sizes[array],
                rows=sum(dataset.rows for dataset in datasets),
                rows_left=sum(dataset.rows_left[array] for dataset in datasets),
                rows_per_second=(rates or {}).get(array),
            )
            for array in arrays
        ],
        free_bytes=free_bytes,
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


def _token_bytes(catalogue: Catalogue, teacher: TeacherEntry, cache: Cache | None) -> int | None:
    for dataset in cache or ():
        if teacher.name in dataset.teachers:
            layout = dataset.array(teacher.name).layout
            return None if layout is None else layout.stride
    for known in known_teachers():
        if Path(known.file).name == teacher.weights.name:
            return known.row_bytes(catalogue.recipe.image_size) + CHECKSUM_BYTES
    return _measured_token_bytes(catalogue, teacher)


def _measured_token_bytes(catalogue: Catalogue, teacher: TeacherEntry) -> int | None:
    if not teacher.weights.is_file():
        return None
    from extract.teachers.loading import load_teacher

    loaded = load_teacher(teacher, device="cpu")
    tokens = loaded.prefix_tokens + (catalogue.recipe.image_size // STUDENT_PATCH_PX) ** 2
    return tokens * loaded.channels * FLOAT16_BYTES + CHECKSUM_BYTES
