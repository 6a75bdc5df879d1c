"""What a job is made of: one task a shard, and what is left to do, which is always a listing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from store import Cache, Dataset, errors
from store.format.schema import PIXELS

Stage = Literal["index", "views", "features", "seal"]
STAGES: tuple[Stage, ...] = ("index", "views", "features", "seal")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard to make: `array` is `pixels` or a teacher's name; `batch_size` is for teachers."""

    dataset: str
    array: str
    shard: int
    rows: int
    batch_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """Every `count`-th shard of the job from `index` on, so that independent jobs share the work without talking."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `i/n` with i from 0 to n - 1.

        Raises:
            errors.InvalidInput: anything else.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise errors.InvalidInput(
                f"--shards {text}: expected i/n with i from 0 to n - 1, such as 0/8 for the first of 8"
            )
        return cls(index=int(index), count=int(count))


@dataclass(frozen=True, kw_only=True)
class ArrayState:
    """How far one array is, counting only this job's part of it.

    Attributes:
        dataset, array: which.
        shards: that this job answers for.
        rows: of these shards.
        missing: tasks left.
    """

    dataset: str
    array: str
    shards: int
    rows: int
    missing: tuple[Task, ...]

    @property
    def missing_rows(self) -> int:
        return sum(task.rows for task in self.missing)


def states(cache: Cache, datasets: Sequence[str], arrays: Sequence[str], part: Part) -> Iterator[ArrayState]:
    """How far these arrays are, by one listing each, array by array so that a teacher is loaded once.

    An array that does not exist yet is missing whole. Shards are dealt to parts by their number counted through all
    datasets, so that each part gets its share of many small datasets too.
    """
    for array in arrays:
        dealt = 0
        for name in datasets:
            dataset = cache[name]
            mine = [shard for shard in range(dataset.shards) if (dealt + shard) % part.count == part.index]
            dealt += dataset.shards
            exists = array == PIXELS or array in dataset.teachers
            present = dataset.present(array) if exists else frozenset()
            yield ArrayState(
                dataset=name,
                array=array,
                shards=len(mine),
                rows=sum(len(dataset.shard_rows_of(shard)) for shard in mine),
                missing=tuple(_task(dataset, array, shard) for shard in mine if shard not in present),
            )


def _task(dataset: Dataset, array: str, shard: int) -> Task:
    return Task(dataset=dataset.name, array=array, shard=shard, rows=len(dataset.shard_rows_of(shard)))
