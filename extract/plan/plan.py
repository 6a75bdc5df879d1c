"""What a catalogue will cost before it is started: rows, shards, bytes, hours, and what exists. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extract.catalogue import STUDENT_PATCH_PX, Catalogue, DatasetEntry, TeacherEntry, ViewRecipe
from extract.job import preflight
from extract.job.preflight import free_bytes
from extract.sources import open_source
from extract.teachers.registry import known_teachers
from store import Cache, errors
from store import open as open_cache
from store.common import config
from store.format import schema
from store.format.layout import CHECKSUM_BYTES
from store.format.schema import PIXELS

FLOAT16_BYTES = 2
DUNE_SAMPLES = 100 * 1_281_167  # images that the paper's students are trained on


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many images a dataset has.

    Attributes:
        images: None if nothing tells.
        origin: what tells: the image list in the cache, a listing of the files, or the catalogue's expectation.
        problem: why they could not be listed although their folder is here, None if they could.
    """

    images: int | None
    origin: Literal["cache", "files", "expected"]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """One dataset.

    Attributes:
        entry: of the catalogue.
        count: of its images.
        shards: of each array.
        present: shards that exist, by array.
        rows_left: rows of shards that do not exist, by array.
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
        """How many; 0 if nothing tells."""
        return self.count.images or 0


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """Pixels or one teacher's tokens over all datasets.

    Attributes:
        array: `pixels` or the teacher's name.
        row_bytes: stored bytes of a row, checksum included; None if the weights are not here and the file is unknown.
        rows: of all datasets.
        rows_left: of shards that do not exist.
        rows_per_second: measured or told; None if neither.
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
        """Bytes of so many rows; 0 where the size of one is not known."""
        return (self.row_bytes or 0) * rows

    def seconds_of(self, rows: int) -> float | None:
        """Seconds to make so many rows; None where the rate is not known."""
        return rows / self.rows_per_second if self.rows_per_second else None if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole catalogue.

    Attributes:
        image_size: of the views, px.
        datasets: in the catalogue's order.
        arrays: pixels first.
        free_bytes: space at the target, None if it is not known.
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
        """How often each training row of a group is seen when `samples` images are drawn equally from all groups."""
        rows: dict[str, int] = {}
        for dataset in self.datasets:
            if dataset.entry.split == "train":
                rows[dataset.entry.group] = rows.get(dataset.entry.group, 0) + dataset.rows
        return {group: samples / len(rows) / count for group, count in rows.items() if count}


def count_images(catalogue: Catalogue, *, cache: Cache | None, count_files: bool) -> dict[str, Count]:
    """Count the images of every dataset, by name; raises nothing, as a plan tells the rest, too.

    Args:
        catalogue: what is extracted.
        cache: where some datasets may have been indexed already.
        count_files: list the images of the others. Where that is not asked for or they are not here, their expected
            number counts.
    """
    return {entry.name: _count(entry, cache, count_files) for entry in catalogue.dataset}


def make_plan(
    catalogue: Catalogue,
    *,
    counts: Mapping[str, Count],
    cache: Cache | None = None,
    target: str | None = None,
    rates: Mapping[str, float] | None = None,
) -> Plan:
    """Plan the extraction of a catalogue.

    Args:
        catalogue: what is extracted.
        counts: of the images, by dataset, from `count_images`.
        cache: where some of it may exist already.
        target: location of the cache, existing or not, for its free space.
        rates: rows per second by array, where known.
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
        free_bytes=free_bytes(target),
    )


def narrowed(
    catalogue: Catalogue,
    *,
    datasets: Sequence[str] = (),
    teachers: Sequence[str] = (),
    split: Literal["train", "val"] | None = None,
    image_size: int | None = None,
    views: int | None = None,
) -> Catalogue:
    """The catalogue with only these datasets and teachers (all if empty), and with other sizes where given.

    Args:
        catalogue: to choose from.
        datasets: names.
        teachers: names.
        split: only datasets of this split.
        image_size: of the recipe, px.
        views: of every dataset in mode "train" of split "train".

    Raises:
        errors.InvalidConfig: unknown names, nothing of that split, or an image size that no recipe may have.
    """
    dataset_names, problems = preflight.choose(datasets, [d.name for d in catalogue.dataset], option="--datasets")
    teacher_names, more = preflight.choose(teachers, [t.name for t in catalogue.teacher], option="--teachers")
    entries = [entry for entry in catalogue.dataset if entry.name in dataset_names and split in (None, entry.split)]
    if not (entries or problems):
        problems.append(f"--split {split}: no dataset asked for is of this split")
    preflight.refuse(problems + more)
    sizes = {} if image_size is None else {"image_size": image_size}
    recipe = config.parse(ViewRecipe, catalogue.recipe.model_dump() | sizes, subject="--image-size")
    if views is not None:
        trained = [entry.mode == "train" and entry.split == "train" for entry in entries]
        entries = [e.model_copy(update={"views": views} if t else {}) for e, t in zip(entries, trained, strict=True)]
    chosen = {"dataset": tuple(entries), "teacher": tuple(catalogue.teacher_named(name) for name in teacher_names)}
    return catalogue.model_copy(update={"recipe": recipe, **chosen})


def open_if_there(location: str | None, recipe: ViewRecipe) -> Cache | None:
    """The cache at a location, if there is one.

    Raises:
        errors.Conflict: it was made by another recipe.
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


def parse_rates(text: str, teachers: Sequence[str]) -> dict[str, float]:
    """Rows per second by array from `views=900,dinov2=250`; a bare number counts for every teacher.

    Raises:
        errors.InvalidInput: neither form, or an unknown name.
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
