"""Summary of a cache, made quickly: from listings, sealed tables, and the trailers of a few unsealed shards."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.cache.joined_dataset import parts_of
from store.cache.metadata import TeacherInfo
from store.cache.row_status import RowStatus
from store.common.threads import ThreadTeam
from store.format.attributes import is_archive
from store.format.layout import any_in_shard
from store.format.schema import FAILED, MISSING, OK, PIXELS, shard_name
from store.inspection.code_info import CodeInfo, code_info
from store.inspection.table_damage import table_damage

BAR_CELLS = 24
TRAILERS_READ = 256  # of one array; with more unsealed shards than that, sealing is the quicker way to know
THREADS = 16
ARCHIVED = "compressed without loss: read through zarr, its rows are checked whenever they are read"
FOREIGN = "not written by codistill: read through zarr, without trailers"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a completeness bar: a stretch of rows.

    Attributes:
        done: share of the rows that are ok or failed.
        unsealed: share of the rows that are stored in shards of unknown status.
        failed: whether any row failed.
    """

    done: float
    unsealed: float
    failed: bool


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """State of one array.

    Attributes:
        name: `pixels` or a teacher.
        rows: rows of the array, the sum of the next four.
        ok, failed, missing: rows of this status.
        unsealed: rows stored in shards whose status was not read, from a seal or a trailer.
        shards: shards of the array.
        shards_present: shards that exist.
        stored_bytes: size of the shards that exist.
        sealed: whether sealed tables cover all shards that exist.
        identity_digest: digest of what the values depend on.
        bar: completeness of the rows in order, cut into cells.
        notes: sentences about anything unusual.
        code: code that the tokens are stored in; None where they are float16.
        damaged: shards and sealed tables that have gone or cannot be read, as far as was looked.
        foreign: whether something else than codistill wrote it.
    """

    name: str
    rows: int
    ok: int
    failed: int
    missing: int
    unsealed: int
    shards: int
    shards_present: int
    stored_bytes: int
    sealed: bool
    identity_digest: str
    bar: tuple[Cell, ...]
    notes: tuple[str, ...]
    code: CodeInfo | None = None
    damaged: int = 0
    foreign: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One dataset and its arrays, pixels first."""

    name: str
    group: str
    split: str
    mode: str
    images: int
    views: int
    first_view: int
    rows: int
    arrays: tuple[ArrayInfo, ...]


@dataclass(frozen=True, kw_only=True)
class TeacherSummary(TeacherInfo):
    """A teacher and the datasets that have its tokens; two of one name mean two different networks.

    Its code is None where no dataset has codes.

    Attributes:
        datasets: dataset names.
    """

    datasets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """Everything that `codistill store info` shows; plain values, ready for JSON by `dataclasses.asdict`."""

    location: str
    uuid: str
    recipe: dict[str, Any]
    datasets: tuple[DatasetInfo, ...]
    teachers: tuple[TeacherSummary, ...]

    @property
    def stored_bytes(self) -> int:
        return sum(array.stored_bytes for dataset in self.datasets for array in dataset.arrays)


def inspect(cache: Cache) -> CacheInfo:
    """Summarise a cache. Reads no row, and of a manifest the end alone; needs no seal, is exact on a sealed cache."""
    datasets = list(cache)
    return CacheInfo(
        location=cache.location,
        uuid=cache.uuid,
        recipe=cache.recipe,
        datasets=tuple(_dataset_info(dataset) for dataset in datasets),
        teachers=_teachers(datasets),
    )


def _dataset_info(dataset: Dataset) -> DatasetInfo:
    return DatasetInfo(
        name=dataset.name,
        group=dataset.group,
        split=dataset.split,
        mode=dataset.mode,
        images=dataset.images,
        views=dataset.views,
        first_view=dataset.first_view,
        rows=dataset.rows,
        arrays=tuple(_array_info(dataset, name) for name in (PIXELS, *dataset.teachers)),
    )


def _teachers(datasets: Iterable[Dataset]) -> tuple[TeacherSummary, ...]:
    dataset_names: dict[tuple[str, str], list[str]] = {}
    infos: dict[tuple[str, str], TeacherInfo] = {}
    for dataset in datasets:
        for name in dataset.teachers:
            try:
                info = dataset.teacher(name)
            except (errors.UnsupportedFormat, errors.Conflict):
                continue  # not written by codistill, or in several forms: noted beside its rows
            key = (name, info.identity_digest)
            dataset_names.setdefault(key, []).append(dataset.name)
            if key not in infos or info.code is not None:  # held-out datasets have float16 tokens of the same teacher
                infos[key] = info
    return tuple(
        TeacherSummary(**vars(infos[key]), datasets=tuple(names)) for key, names in sorted(dataset_names.items())
    )


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What is stored of one array in one part of a dataset.

    Attributes:
        status: status of the rows.
        unknown: whether a row is stored in a shard of unknown status.
        shards, present: shards of the part, and those that exist.
        stored_bytes: size of the shards that exist.
        sealed: whether sealed tables cover all shards that exist; None where none does.
        damaged: shards and tables that have gone or cannot be read.
        notes: sentences about anything unusual.
        foreign: not written by codistill.
    """

    status: npt.NDArray[np.uint8]
    unknown: npt.NDArray[np.bool_]
    shards: int
    present: int
    stored_bytes: int
    sealed: bool | None
    damaged: int
    notes: tuple[str, ...]
    foreign: bool = False


def _array_info(dataset: Dataset, name: str) -> ArrayInfo:
    stored = [_stored(part, name) for part in parts_of(dataset)]
    status = np.concatenate([part.status for part in stored])
    unknown = np.concatenate([part.unknown for part in stored])
    states = np.bincount(status, minlength=3)
    sealed = [part.sealed for part in stored if part.sealed is not None]
    try:
        digest = dataset.identity_digest(name)
    except errors.UnsupportedFormat:
        digest = ""
    return ArrayInfo(
        name=name,
        rows=dataset.rows,
        ok=int(states[OK]),
        failed=int(states[FAILED]),
        missing=int(states[MISSING] - unknown.sum()),
        unsealed=int(unknown.sum()),
        shards=sum(part.shards for part in stored),
        shards_present=sum(part.present for part in stored),
        stored_bytes=sum(part.stored_bytes for part in stored),
        sealed=bool(sealed) and all(sealed),
        identity_digest=digest,
        bar=_bar(status, unknown),
        notes=(*(note for part in stored for note in part.notes), *_disagreement(dataset, name)),
        code=code_info(dataset, name),
        damaged=sum(part.damaged for part in stored),
        foreign=any(part.foreign for part in stored),
    )


def _disagreement(dataset: Dataset, name: str) -> tuple[str, ...]:
    """Return a note if the parts of a dataset have tokens of two networks under one name, or in two forms."""
    try:
        if name != PIXELS:
            dataset.teacher(name)
    except errors.Conflict as error:
        return (str(error),)
    except errors.UnsupportedFormat:
        pass  # noted as not written by codistill
    return ()


def _stored(part: Dataset, name: str) -> _Stored:
    if name != PIXELS and name not in part.teachers:  # a part that was added later
        return _nothing_stored(part)
    node = part.array(name)
    if node.layout is None:
        return _stored_by_others(part, name)
    sizes = {entry.name: entry.size_bytes for entry in part.storage.list_objects(node.path)}
    stored = [sizes.get(shard_name(shard, len(node.shape)), -1) for shard in range(part.shards)]
    present = np.array(stored) >= 0
    status, notes = _sealed_status(part, name)
    notes += table_damage(part, name)
    damaged = len(notes)
    sealed = any_in_shard(status != MISSING, part.shard_rows)
    gone = int((sealed & ~present).sum())
    if gone:
        notes.append(f"{gone} sealed shards have gone. Run: codistill store verify {part.storage.location}")
        status = np.where(np.repeat(present, part.shard_rows)[: part.rows], status, MISSING)
    unsealed = present & ~sealed
    if 0 < unsealed.sum() <= TRAILERS_READ:
        status, unreadable = _with_trailers(part, name, status, np.flatnonzero(unsealed).tolist())
        notes += unreadable
        damaged += len(unreadable)
    return _Stored(
        status=status,
        unknown=np.repeat(unsealed, part.shard_rows)[: part.rows] & (status == MISSING),
        shards=part.shards,
        present=int(present.sum()),
        stored_bytes=sum(size for size in stored if size > 0),
        sealed=not unsealed.any() if present.any() else None,
        damaged=damaged + gone,
        notes=tuple(notes),
    )


def _nothing_stored(part: Dataset) -> _Stored:
    return _Stored(
        status=np.full(part.rows, MISSING, np.uint8),
        unknown=np.zeros(part.rows, np.bool_),
        shards=part.shards,
        present=0,
        stored_bytes=0,
        sealed=None,
        damaged=0,
        notes=(),
    )


def _stored_by_others(part: Dataset, name: str) -> _Stored:
    """Describe an array that codistill did not write: its rows are known only if it has a status."""
    entries = [entry for entry in part.storage.list_objects(part.array(name).path) if entry.name != "zarr.json"]
    status, notes = _sealed_status(part, name)
    known = bool((status != MISSING).any())
    return _Stored(
        status=status,
        unknown=np.full(part.rows, not known),
        shards=len(entries),
        present=len(entries),
        stored_bytes=sum(entry.size_bytes for entry in entries),
        sealed=known,
        damaged=len(notes),
        notes=(*notes, ARCHIVED if is_archive(part.array(name)) else FOREIGN),
        foreign=not is_archive(part.array(name)),
    )


def _sealed_status(dataset: Dataset, name: str) -> tuple[npt.NDArray[np.uint8], list[str]]:
    try:
        return dataset.status(name), []
    except errors.NotSealed:
        return np.zeros(dataset.rows, np.uint8), []
    except errors.Damaged as error:
        return np.zeros(dataset.rows, np.uint8), [str(error)]


def _with_trailers(
    dataset: Dataset, name: str, status: npt.NDArray[np.uint8], shards: Sequence[int]
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Return `status` with the rows of `shards` filled in, and messages about trailers that cannot be read."""
    completed = RowStatus(dataset, name, status)
    unreadable: dict[int, errors.CodistillError] = {}
    with closing(ThreadTeam(THREADS)) as team:
        completed.read_shards(shards, team, unreadable=unreadable)
    return completed.values, [str(error) for _, error in sorted(unreadable.items())]


def _bar(status: npt.NDArray[np.uint8], unknown: npt.NDArray[np.bool_]) -> tuple[Cell, ...]:
    cells = min(BAR_CELLS, len(status))
    edges = np.linspace(0, len(status), cells + 1).astype(np.int64)
    starts, lengths = edges[:-1], np.diff(edges)
    done = np.add.reduceat(status != MISSING, starts, dtype=np.int64) / lengths
    unsealed = np.add.reduceat(unknown, starts, dtype=np.int64) / lengths
    failed = np.logical_or.reduceat(status == FAILED, starts)
    return tuple(
        Cell(done=float(share), unsealed=float(unread), failed=bool(bad))
        for share, unread, bad in zip(done, unsealed, failed, strict=True)
    )
