"""Tasks of a job, one for each shard. The work that is left is always found by listing the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from store import Cache, Dataset, errors
from store.format.schema import PIXELS

Stage = Literal["index", "views", "calibrate", "features", "seal"]
STAGES: tuple[Stage, ...] = ("index", "views", "calibrate", "features", "seal")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard to make.

    Attributes:
        dataset: name of the dataset.
        array: `pixels` or a teacher's name.
        shard: number of the shard.
        rows: number of its rows.
        batch_size: rows that go through a teacher together.
    """

    dataset: str
    array: str
    shard: int
    rows: int
    batch_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """Every `count`-th shard of a job, from number `index` on, so that jobs share the work without communication."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `i/n` with i from 0 to n - 1.

        Raises:
            errors.InvalidInput: another form.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise errors.InvalidInput(
                f"--shards {text}: expected i/n with i from 0 to n - 1, such as 0/8 for the first of 8"
            )
        return cls(index=int(index), count=int(count))


@dataclass(frozen=True, kw_only=True)
class ArrayState:
    """State of this job's part of one array.

    Attributes:
        dataset: name of the dataset.
        array: `pixels` or a teacher's name.
        shards: number of shards in this part.
        rows: number of rows of these shards.
        missing: tasks of the shards that do not exist yet.
    """

    dataset: str
    array: str
    shards: int
    rows: int
    missing: tuple[Task, ...]

    @property
    def missing_rows(self) -> int:
        return sum(task.rows for task in self.missing)


def array_states(cache: Cache, datasets: Sequence[str], arrays: Sequence[str], part: Part) -> Iterator[ArrayState]:
    """Yield the state of these arrays, by one listing each, array by array so that a teacher is loaded once.

    Datasets and their parts are named as they are stored.

    All shards of an array that does not exist yet are missing. Shards are assigned to parts by a number that goes on
    from dataset to dataset, so that each part also gets its share of many small datasets.
    """
    for array in arrays:
        shards_before = 0
        for name in datasets:
            dataset = cache.part(name)
            in_part = [shard for shard in range(dataset.shards) if (shards_before + shard) % part.count == part.index]
            shards_before += dataset.shards
            exists = array == PIXELS or array in dataset.teachers
            present = dataset.present(array) if exists else frozenset()
            yield ArrayState(
                dataset=name,
                array=array,
                shards=len(in_part),
                rows=sum(len(dataset.shard_rows_of(shard)) for shard in in_part),
                missing=tuple(_task(dataset, array, shard) for shard in in_part if shard not in present),
            )


def _task(dataset: Dataset, array: str, shard: int) -> Task:
    return Task(dataset=dataset.name, array=array, shard=shard, rows=len(dataset.shard_rows_of(shard)))
