"""Check of a cache: every shard, table and object, in parallel; each problem has a machine-readable kind."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.common.threads import IN_FLIGHT, ordered_map
from store.format.schema import PIXELS
from store.storage.base import Location
from store.storage.location import open_storage
from store.verify.any_shard import check_shard, check_trailer
from store.verify.problems import Kind, Problem
from store.verify.sealed_check import SealedCheck
from store.verify.shard_check import ShardCheck, ShardLocation
from store.verify.tree_check import Tree, open_for_checking

TRAILER_THREADS = 16  # waiting for the disk, not computing
MAX_THREADS = 8  # each holds a block of rows


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Result of a check.

    Attributes:
        location: location of the cache.
        quick: whether rows were left unread.
        problems: problems, in the order of the tree.
        notes: sentences about what is no problem and worth knowing.
        shards, rows, stored_bytes: amounts checked.
    """

    location: str
    quick: bool
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    shards: int = 0
    rows: int = 0
    stored_bytes: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "location": self.location,
            "quick": self.quick,
            "ok": self.ok,
            "shards": self.shards,
            "rows": self.rows,
            "stored_bytes": self.stored_bytes,
            "problems": [problem.as_json() for problem in self.problems],
            "notes": list(self.notes),
        }


def verify(
    location: Location, *, quick: bool = False, progress: bool = False, threads: int | None = None
) -> VerifyReport:
    """Check a cache; nothing is changed.

    Checked: metadata documents against their checksums and the sums that seals recorded, image lists, sizes, the
    checksum of every row, trailer and index, that failed rows have empty places, moments against data, that shards
    belong where they are and tokens to the pixels stored, sealed tables against trailers, and that nothing else lies in
    the cache. docs/format.md lists what nothing covers, such as whether pixels are those of the image that their
    manifest row names.

    Args:
        location: path or URL of the cache.
        quick: read trailers, not rows.
        progress: show a progress bar.
        threads: number of shards to check at the same time; None chooses.

    Raises:
        errors.MissingCache: there is no cache.
    """
    cache = open_for_checking(location)
    if isinstance(cache, Problem):
        return VerifyReport(location=open_storage(location).location, quick=quick, problems=(cache,), notes=())
    return _Verifier(cache, quick=quick, progress=progress, threads=threads).run()


@dataclass
class _Counts:
    shards: int = 0
    rows: int = 0
    stored_bytes: int = 0


class _Verifier:
    """One check of one cache."""

    def __init__(self, cache: Cache, *, quick: bool, progress: bool, threads: int | None) -> None:
        self._tree = Tree(cache)
        self._cache, self._quick = cache, quick
        cores = len(os.sched_getaffinity(0))
        self._threads = threads or (
            TRAILER_THREADS if quick else max(cores, min(MAX_THREADS, cache.storage.read_threads))
        )
        self._problems = list(self._tree.problems)
        self._notes = list(self._tree.notes)
        self._counts = _Counts()
        self._work = {
            (dataset.name, array): _shard_sizes(dataset, array)
            for dataset in self._tree.datasets
            for array in self._tree.arrays[dataset.name]
        }
        total = sum(len(sizes) if quick else sum(sizes.values()) for sizes in self._work.values())
        unit = {"unit": "shard"} if quick else {"unit": "B", "unit_scale": True}
        self._bar = tqdm(total=total, desc="verify", disable=not progress, **unit)

    def run(self) -> VerifyReport:
        with self._bar, ThreadPoolExecutor(self._threads, thread_name_prefix="codistill-verify") as pool:
            for dataset in self._tree.datasets:
                arrays = self._tree.arrays[dataset.name]
                digests: dict[int, str | None] | None = {} if PIXELS in arrays else None
                for array in arrays:
                    problems = self._check_array(dataset, array, digests, pool=pool)
                    self._problems += _metadata_at_fault(problems, dataset, array)
        return VerifyReport(
            location=self._cache.location,
            quick=self._quick,
            problems=tuple(self._problems),
            notes=tuple(self._notes),
            shards=self._counts.shards,
            rows=self._counts.rows,
            stored_bytes=self._counts.stored_bytes,
        )

    def _check_array(
        self, dataset: Dataset, array: str, digests: dict[int, str | None] | None, *, pool: ThreadPoolExecutor
    ) -> list[Problem]:
        """Check one array.

        Args:
            dataset: the dataset.
            array: `pixels` or a teacher's name.
            digests: digests of the pixel shards, filled when the array is pixels and compared with otherwise; None
                where codistill did not write the pixels.
            pool: threads that check shards.
        """
        problems: list[Problem] = []
        tables = SealedCheck(dataset, array)
        for check in self._checks(dataset, array, pool=pool):
            trailer = check.trailer
            if array == PIXELS and digests is not None:
                digests[check.location.shard] = None if trailer is None else trailer.digest
            elif digests is not None:
                check.problems += _pixels_problem(check, digests)
            problems += check.problems
            tables.add(check)
        tables.finish()
        self._notes += tables.notes
        return problems + tables.problems

    def _checks(self, dataset: Dataset, array: str, *, pool: ThreadPoolExecutor) -> Iterator[ShardCheck]:
        sizes = self._work[dataset.name, array]
        paths = self._tree.paths[dataset.name]

        def check(shard: int) -> ShardCheck | None:
            location = ShardLocation.of(dataset, array, shard, paths=paths)
            try:
                return check_trailer(location) if self._quick else check_shard(location)
            except FileNotFoundError:
                return None  # deleted since it was listed: another process recomputes it

        shards = sorted(sizes)
        checks = ordered_map(pool, check, shards, ahead=IN_FLIGHT)
        for shard, checked in zip(shards, checks, strict=True):
            self._bar.update(1 if self._quick else sizes[shard])
            if checked is not None:
                self._counts.shards += 1
                self._counts.rows += len(checked.location.rows)
                self._counts.stored_bytes += sizes[shard]
                yield checked


def _shard_sizes(dataset: Dataset, array: str) -> dict[int, int]:
    node = dataset.array(array)
    present = dataset.present(array)
    names = {node.shard_key(shard).rpartition("/")[2]: shard for shard in present}
    return {
        names[entry.name]: entry.size_bytes for entry in dataset.storage.list_objects(node.path) if entry.name in names
    }


def _pixels_problem(check: ShardCheck, digests: dict[int, str | None]) -> list[Problem]:
    """Compare a token shard with the pixel shard of the same number; `digests` holds None where that is damaged."""
    trailer, shard = check.trailer, check.location.shard
    if shard not in digests:
        return [check.location.problem(Kind.PIXELS_MISSING, "there is no pixel shard of this number")]
    stored = digests[shard]
    if trailer is None or stored is None or trailer.pixels_digest in (None, stored):
        return []
    message = f"computed from other pixels: digest expected {stored}, found {trailer.pixels_digest}"
    return [check.location.problem(Kind.OTHER_PIXELS, message)]


def _metadata_at_fault(problems: list[Problem], dataset: Dataset, array: str) -> list[Problem]:
    """Replace the same identity problem of all shards by one problem of the array's metadata."""
    other_identities = [problem for problem in problems if problem.kind is Kind.OTHER_IDENTITY]
    shards = len(dataset.present(array))
    if shards < 2 or len(other_identities) < shards or len({problem.message for problem in other_identities}) > 1:
        return problems
    key = f"{dataset.array(array).path}/zarr.json"
    exits = "Was zarr.json (or the recipe, or the image list) edited?"
    message = f"all {shards} shards are {other_identities[0].message}. {exits}"
    of_metadata = Problem(kind=Kind.METADATA_DIFFERS, key=key, message=message, dataset=dataset.name, array=array)
    return [of_metadata, *(problem for problem in problems if problem.kind is not Kind.OTHER_IDENTITY)]
