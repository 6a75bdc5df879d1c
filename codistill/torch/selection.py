"""Which rows and teachers a `CacheDataset` has: asked for by conditions, found in sealed caches, found again elsewhere.

Shapes: S sources (datasets), T teachers.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

import store
from codistill.torch.arguments import shown
from store import Cache, Dataset, TeacherInfo
from store.cache.row_selection import Rows, as_row_numbers
from store.common.config import near_miss
from store.common.row_filter import Expression
from store.common.row_filter import parse as parse_subset
from store.errors import InvalidConfig, InvalidInput
from store.format import manifest
from store.format.schema import PIXELS
from store.storage.base import Location
from train.data.mixture import Mixture, RowList, Source, cached_forms
from train.data.open_caches import by_group, compact, usable_rows
from train.data.teacher_sharing import SharingMode, eligibility_table

Sharing = SharingMode | Literal["available"]
CacheLike = Location | Cache | Dataset | Rows
RowsLike = range | slice | Sequence[int] | npt.NDArray[Any]

SUBJECT = "CacheDataset"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A dataset of a selection.

    Attributes:
        location: where its cache is.
        name: its name.
        rows: rows that were asked for, ascending; None means all.
    """

    location: str
    name: str
    rows: RowList | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Everything that a selection depends on besides the caches; it is what a pickled `CacheDataset` holds.

    Attributes:
        members: datasets, in the order in which they were named.
        teachers: teachers; empty means all that the datasets have.
        subset: condition on the manifest's columns; empty takes all rows.
        sharing, generic_groups: which teachers an image may learn from.
    """

    members: tuple[Member, ...]
    teachers: tuple[str, ...] = ()
    subset: str = ""
    sharing: Sharing = "full"
    generic_groups: tuple[str, ...] = ()


def members_of(
    caches: CacheLike | Iterable[CacheLike],
    *,
    datasets: Sequence[str] = (),
    split: str | None = "train",
    rows: RowsLike | Mapping[str, RowsLike] | None = None,
) -> tuple[Member, ...]:
    """Return the datasets that caches, datasets and views of rows name.

    Args:
        caches: one of them, or several.
        datasets: names of the datasets to take of caches; empty means all.
        split: split of the datasets to take of caches where none is named; None means both.
        rows: row numbers: of the only dataset, or by the name of a dataset.

    Raises:
        InvalidConfig: nothing is selected, something twice, or rows do not exist; every problem is listed.
        InvalidInput: what is given is no cache.
        MissingCache, MissingName: from the caches.
    """
    opened = [_open(cache) for cache in ([caches] if isinstance(caches, str | os.PathLike) else _several(caches))]
    found: list[tuple[Dataset, RowList | None]] = []
    for one in opened:
        if isinstance(one, Rows):
            found.append((one.dataset, _sorted(one.numbers)))
        elif isinstance(one, Dataset):
            found.append((one, None))
        else:
            found += [(dataset, None) for dataset in _of_cache(one, datasets, split)]
    problems = _problems(found, opened, datasets, split)
    if problems:
        raise InvalidConfig(SUBJECT, problems)
    by_name = _rows_by_name(rows, found)
    members = []
    for dataset, asked in found:
        wanted = asked
        if dataset.name in by_name:
            wanted = _sorted(as_row_numbers(dataset.rows, by_name[dataset.name], owner=dataset.name))
        members.append(Member(location=dataset.storage.location, name=dataset.name, rows=wanted))
    return tuple(members)


def _several(caches: CacheLike | Iterable[CacheLike]) -> list[CacheLike]:
    if isinstance(caches, Cache | Dataset | Rows):
        return [caches]
    if not isinstance(caches, Iterable):
        raise _no_cache(caches)
    return list(caches)  # strings and paths were taken before


def _no_cache(found: object) -> InvalidInput:
    expected = "a location, an opened cache, a dataset or some rows of one, or a list of these"
    return InvalidInput(f"cache: expected {expected}, found {shown(found)}")


def _open(cache: CacheLike) -> Cache | Dataset | Rows:
    if not isinstance(cache, str | os.PathLike | Cache | Dataset | Rows):
        raise _no_cache(cache)
    return cache if isinstance(cache, Cache | Dataset | Rows) else store.open(cache)


def _of_cache(cache: Cache, names: Sequence[str], split: str | None) -> Iterator[Dataset]:
    if names:
        yield from (cache[name] for name in names if name in cache.datasets)
    else:
        yield from (dataset for dataset in cache if split is None or dataset.split == split)


def _problems(
    found: Sequence[tuple[Dataset, RowList | None]],
    opened: Sequence[Cache | Dataset | Rows],
    names: Sequence[str],
    split: str | None,
) -> list[str]:
    caches = [one for one in opened if isinstance(one, Cache)]
    known = sorted({name for cache in caches for name in cache.datasets})
    problems = [
        f"datasets: '{name}' is not in {', '.join(cache.location for cache in caches) or 'a cache that was given'}"
        f"{near_miss(name, known)}; available: {', '.join(known) or 'none'}"
        for name in names
        if name not in known
    ]
    keys = [(dataset.storage.location, dataset.name) for dataset, _ in found]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    problems += [f"dataset '{name}' of {where} is given twice" for where, name in twice]
    if not found and not problems:
        other = sorted({dataset.split for cache in caches for dataset in cache})
        exits = f"splits here: {', '.join(other)}; pass split= or datasets=" if other else "it holds no dataset"
        where = ", ".join(cache.location for cache in caches) or "an empty list of caches"
        problems.append(f"no dataset with split {split!r} in {where}: {exits}")
    return problems


def _rows_by_name(
    rows: RowsLike | Mapping[str, RowsLike] | None, found: Sequence[tuple[Dataset, RowList | None]]
) -> Mapping[str, RowsLike]:
    names = sorted({dataset.name for dataset, _ in found})
    if rows is None:
        return {}
    if any(asked is not None for _, asked in found):
        raise InvalidConfig(SUBJECT, ["rows: a slice of a dataset has its rows already. Give one or the other"])
    if isinstance(rows, Mapping):
        unknown = [f"'{name}'{near_miss(name, names)}" for name in rows if name not in names]
        if unknown:
            raise InvalidConfig(SUBJECT, [f"rows: {', '.join(unknown)}; datasets here: {', '.join(names)}"])
        return rows
    if len(found) != 1:
        raise InvalidConfig(
            SUBJECT, [f"rows of which dataset? There are {', '.join(names)}: pass rows={{name: numbers}}"]
        )
    return {names[0]: rows}


def _sorted(numbers: "range | np.ndarray[Any, np.dtype[np.int64]]") -> RowList:
    if isinstance(numbers, range):
        return numbers if numbers.step > 0 else numbers[::-1]
    return compact(np.unique(numbers))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Opened datasets with their usable rows.

    Attributes:
        mixture: the rows, by group, and the teachers.
        digest: digest of the caches' rows and teachers; another one means that index 5 is another image.
    """

    mixture: Mixture
    digest: str

    def reopened(self) -> "Selection":
        """Return the same rows of datasets that are opened anew, as a forked process needs them."""
        groups = {
            name: tuple(
                replace(source, dataset=store.open(source.dataset.storage.location)[source.dataset.name])
                for source in sources
            )
            for name, sources in self.mixture.groups.items()
        }
        return replace(self, mixture=replace(self.mixture, groups=groups, reference=groups))


def select(conditions: Conditions) -> Selection:
    """Open the datasets and find the usable rows: ok in pixels and in every teacher that is read for them.

    Raises:
        InvalidConfig: datasets and teachers do not fit together, or no row is left; every problem is listed.
        MissingCache, MissingName, NotSealed: from the caches.
    """
    opened = [store.open(member.location)[member.name] for member in conditions.members]
    places = {location: number for number, location in enumerate(dict.fromkeys(m.location for m in conditions.members))}
    numbers = [places[member.location] for member in conditions.members]
    subset = _subset(conditions.subset)
    teachers, problems = _teachers(conditions, opened)
    reads = [] if problems else _reads(conditions, opened, teachers, problems)
    if problems:
        raise InvalidConfig(SUBJECT, problems)
    sources = [
        _source(number, dataset, member, names, subset)
        for number, dataset, member, names in zip(numbers, opened, conditions.members, reads, strict=True)
    ]
    cached_forms(sources, teachers)  # refuses different codes
    groups = by_group(sorted(sources, key=lambda source: (source.dataset.name, source.cache)))
    if not any(len(source.rows) for source in sources):
        needed = ", ".join(["pixels", *teachers])
        meets = f" and meets {conditions.subset!r}" if conditions.subset else ""
        raise InvalidConfig(SUBJECT, [f"no row is ok in {needed}{meets}"])
    mixture = Mixture(
        caches=(),
        image_size=opened[0].image_size,
        teachers=teachers,
        groups=groups,
        held_out=(),
        reference=groups,
    )
    return Selection(mixture=mixture, digest=_digest(mixture))


def _subset(text: str) -> Expression:
    return parse_subset(text, manifest.SCHEMA) if text.strip() else None


def _teachers(conditions: Conditions, datasets: Sequence[Dataset]) -> tuple[dict[str, TeacherInfo], list[str]]:
    """Return the teachers, each the same network everywhere, and what does not fit."""
    available = sorted({name for dataset in datasets for name in dataset.teachers})
    listed = ", ".join(available) or "none"
    problems = [
        f"teachers: '{name}' is not in these datasets{near_miss(name, available)}; available: {listed}"
        for name in conditions.teachers
        if name not in available
    ]
    if len({dataset.image_size for dataset in datasets}) > 1:
        sizes = ", ".join(f"'{dataset.name}' {dataset.image_size} px" for dataset in datasets)
        problems.append(f"image sizes differ: {sizes}")
    teachers: dict[str, TeacherInfo] = {}
    for dataset in datasets:
        for name in (name for name in sorted(set(conditions.teachers) or available) if name in dataset.teachers):
            teacher = replace(dataset.teacher(name), code=None)  # how tokens are stored is the dataset's
            first = teachers.setdefault(name, teacher)
            problems += [
                f"teacher '{name}' in '{dataset.name}': {key} is {here}, elsewhere {there}"
                for key in ("identity_digest", "patch_grid", "prefix_tokens", "channels", "groups")
                if (here := getattr(teacher, key)) != (there := getattr(first, key))
            ]
    return dict(sorted(teachers.items())), problems


def _reads(
    conditions: Conditions, datasets: Sequence[Dataset], teachers: Mapping[str, TeacherInfo], problems: list[str]
) -> list[tuple[str, ...]]:
    """Return the teachers that the images of each dataset learn from; adds what does not fit to `problems`."""
    held = [tuple(name for name in teachers if name in dataset.teachers) for dataset in datasets]
    if conditions.sharing == "available":
        return held
    modes = (*get_args(SharingMode), "available")
    if conditions.sharing not in modes:
        problems.append(f"sharing: expected one of {', '.join(modes)}, found {conditions.sharing!r}")
        return held
    groups = sorted({dataset.group for dataset in datasets})
    try:
        table = eligibility_table(
            conditions.sharing,
            groups=groups,
            teacher_groups={name: teacher.groups for name, teacher in teachers.items()},
            generic_groups=conditions.generic_groups,
        )
    except InvalidInput as error:
        problems.append(str(error))
        return held
    reads = [
        tuple(name for name, used in zip(teachers, table[:, groups.index(dataset.group)], strict=True) if used)
        for dataset in datasets
    ]
    for dataset, names, there in zip(datasets, reads, held, strict=True):
        lacking = [name for name in names if name not in there]
        if lacking:
            problems.append(
                f"dataset '{dataset.name}' has no tokens of {', '.join(lacking)}: extract them, choose teachers= or "
                "datasets=, or pass sharing='available'"
            )
    return reads


def _source(number: int, dataset: Dataset, member: Member, reads: tuple[str, ...], subset: Expression) -> Source:
    rows = usable_rows(dataset, reads, subset=subset)
    if member.rows is not None:
        usable, asked = np.asarray(rows, np.int64), np.asarray(member.rows, np.int64)
        rows = compact(np.intersect1d(usable, asked, assume_unique=True))
    return Source(cache=number, dataset=dataset, rows=rows, reads=reads)


def _digest(mixture: Mixture) -> str:
    """Return a digest of what every index means: caches' rows and pixels, teachers and their groups."""
    digest = hashlib.sha256()
    for source in mixture.sources:
        dataset = source.dataset
        rows: Any = repr(source.rows).encode() if isinstance(source.rows, range) else source.rows.tobytes()
        pixels = dataset.identity_digest(PIXELS)
        described = f"{dataset.group} {dataset.name} {pixels} {source.reads} {len(source.rows)}"
        digest.update(described.encode())
        digest.update(rows)
    return digest.hexdigest()[:32]
