"""Open the caches of a training and select its rows; everything that does not fit is reported at once."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

import store
from store import Cache, Dataset, TeacherInfo
from store.common.config import near_miss
from store.common.row_filter import Expression
from store.common.row_filter import parse as parse_subset
from store.common.stateless_random import Int64
from store.errors import InvalidConfig, InvalidInput
from store.format import manifest
from store.format.code import CodeSpec
from store.format.schema import CODES, PIXELS
from train.data.mixture import Mixture, RowList, Source, different_codes, stored_codes
from train.data.teacher_sharing import eligibility_table
from train.recipe.config import Recipe

Description = dict[str, Any]
Member = tuple[int, Dataset]  # number of a cache, and one of its datasets


def open_mixture(recipe: Recipe, locations: Sequence[str], *, problems: Iterable[str] = ()) -> Mixture:
    """Open sealed caches and select the rows to train on and to measure on.

    Rows are usable if they are ok in pixels and in the tokens of every teacher that the sharing mode uses for them.
    The sealed status decides; no shard is read.

    Args:
        recipe: configuration of the training.
        locations: locations of the caches.
        problems: problems of the recipe that are known already, to be listed with those found here.

    Raises:
        InvalidConfig: recipe and caches do not fit; every problem is listed.
        MissingCache, NotSealed: from the caches.
    """
    caches = tuple(store.open(location) for location in locations)
    matcher = _Matcher(recipe=recipe, caches=caches, problems=list(problems))
    matcher.check_subset()
    matcher.check_caches()
    training, held_out = matcher.datasets()
    teachers = matcher.teachers(training)
    matcher.check_codes(training, held_out, teachers)
    matcher.raise_problems()
    reads = matcher.reads(training, teachers)
    matcher.raise_problems()
    sources = [
        _source(cache, dataset, reads=reads[dataset.group], subset=matcher.subset)
        for cache, dataset in _sorted(training)
    ]
    matcher.check_rows(sources)
    matcher.raise_problems()
    groups = by_group(sources)
    reference = groups
    if recipe.targets.statistics == "cache":
        reference = by_group(
            _source(*member, reads=_available(member, teachers)) for member in _sorted(matcher.members("train"))
        )
    return Mixture(
        caches=caches,
        image_size=matcher.image_size,
        teachers=teachers,
        groups=groups,
        held_out=tuple(
            _source(*member, reads=_available(member, teachers))
            for member in _sorted(held_out)
            if _available(member, teachers)
        ),
        reference=reference,
    )


def refuse_running_averages_of_codes(recipe: Recipe, locations: Sequence[str]) -> None:
    """Refuse running averages of targets that are stored in a code; needs no torch and reads no row.

    Raises:
        InvalidConfig: naming the teachers.
    """
    if recipe.targets.norm != "ema":
        return
    matcher = _Matcher(recipe=recipe, caches=tuple(store.open(location) for location in locations))
    matcher.check_subset()
    matcher.check_caches()
    training, held_out = matcher.datasets()
    teachers = matcher.teachers(training)
    matcher.check_codes(training, held_out, teachers)
    if any(stored_codes(dataset, _available((number, dataset), teachers)) for number, dataset in training):
        matcher.raise_problems()


def describe(mixture: Mixture) -> Description:
    """Return the content of a run's `cache.json`: the caches, datasets and teachers that it uses, and their digests.

    Notes of the catalogues that the datasets were extracted with are carried along; no result depends on them.
    """
    by_cache: list[dict[str, Any]] = [
        {"location": cache.location, "uuid": cache.uuid, "datasets": {}} for cache in mixture.caches
    ]
    for source in (*mixture.sources, *mixture.held_out):
        dataset = source.dataset
        by_cache[source.cache]["datasets"][dataset.name] = {
            "group": dataset.group,
            "split": dataset.split,
            "rows": dataset.rows,
            "used_rows": len(source.rows),
            "pixels_identity": dataset.identity_digest(PIXELS),
            "status": {array: status_digest(dataset.status(array)) for array in (PIXELS, *source.reads)},
            **described_codes(source.codes(source.reads)),
        }
    if mixture.reference is not mixture.groups:
        for source in chain.from_iterable(mixture.reference.values()):
            references = by_cache[source.cache].setdefault("reference", {})
            references[source.dataset.name] = {
                "group": source.dataset.group,
                "rows": source.dataset.rows,
                "reads": list(source.reads),
            }
    teachers = {name: described_teacher(teacher) for name, teacher in mixture.teachers.items()}
    found = (source.dataset.source.get("note") for source in (*mixture.sources, *mixture.held_out))
    notes = [note for note in dict.fromkeys(found) if isinstance(note, str) and note]
    described = {"image_size": mixture.image_size, "teachers": teachers, "caches": by_cache}
    return described | ({"notes": notes} if notes else {})


def described_teacher(teacher: TeacherInfo) -> dict[str, Any]:
    """Return what `describe` writes down of a teacher."""
    return {
        "identity_digest": teacher.identity_digest,
        "identity": teacher.identity,
        "groups": list(teacher.groups),
        "patch_grid": list(teacher.patch_grid),
        "prefix_tokens": teacher.prefix_tokens,
        "channels": teacher.channels,
    }


def described_codes(codes: Mapping[str, CodeSpec]) -> dict[str, Any]:
    """Return what `describe` writes down of the codes of a dataset: their digests by teacher, nothing without any."""
    return {CODES: {name: code.digest for name, code in codes.items()}} if codes else {}


def described_teachers(description: Description) -> dict[str, TeacherInfo]:
    """Return the teachers that `describe` wrote down, by name."""
    return {
        name: TeacherInfo(
            name=name,
            identity=teacher["identity"],
            identity_digest=teacher["identity_digest"],
            groups=tuple(teacher["groups"]),
            patch_grid=(teacher["patch_grid"][0], teacher["patch_grid"][1]),
            prefix_tokens=teacher["prefix_tokens"],
            channels=teacher["channels"],
        )
        for name, teacher in description["teachers"].items()
    }


@dataclass(kw_only=True)
class _Matcher:
    """Matches a recipe with caches and collects the problems."""

    recipe: Recipe
    caches: tuple[Cache, ...]
    problems: list[str] = field(default_factory=list)
    subset: Expression = None

    @property
    def image_size(self) -> int:
        return int(self.caches[0].recipe["image_size"])

    def raise_problems(self) -> None:
        if self.problems:
            where = ", ".join(f"'{cache.location}'" for cache in self.caches)
            raise InvalidConfig(f"recipe '{self.recipe.name}' on {where}", self.problems)

    def check_subset(self) -> None:
        if self.recipe.data.subset:
            try:
                self.subset = parse_subset(self.recipe.data.subset, manifest.SCHEMA)
            except InvalidConfig as error:
                self.problems += [f"data.subset: {problem}" for problem in error.problems]

    def check_caches(self) -> None:
        sizes = [int(cache.recipe["image_size"]) for cache in self.caches]
        if len(set(sizes)) > 1:
            self.problems.append(f"image sizes of the caches differ: {', '.join(f'{size} px' for size in sizes)}")
        wanted = self.recipe.student.image_size
        if wanted is not None and wanted != sizes[0]:
            self.problems.append(
                f"student.image_size: the recipe is for {wanted} px, the cache has {sizes[0]} px. Choose the recipe or "
                f"cache that fits, or pass --student.image-size {sizes[0]}"
            )
        uuids = [cache.uuid for cache in self.caches]
        if len(set(uuids)) < len(uuids):
            self.problems.append("the same cache is given twice")

    def datasets(self) -> tuple[list[Member], list[Member]]:
        """Return the datasets to train on and those to measure on."""
        training = self._named("data.datasets", self.recipe.data.datasets, split="train")
        held_out = self._named("data.val_datasets", self.recipe.data.val_datasets, split="val")
        if not training and not self.problems:
            self.problems.append("no dataset with split 'train' in these caches")
        return training, held_out

    def members(self, split: str) -> list[Member]:
        """Return all datasets of a split."""
        members = [(number, dataset) for number, cache in enumerate(self.caches) for dataset in cache]
        return [member for member in members if member[1].split == split]

    def _named(self, key: str, names: Sequence[str], *, split: str) -> list[Member]:
        available = {dataset.name: dataset.split for cache in self.caches for dataset in cache}
        for position, name in enumerate(names):
            if name not in available:
                self._unknown(f"{key}[{position}]", name, available)
            elif available[name] != split:
                self.problems.append(f"{key}[{position}]: '{name}' has split '{available[name]}', not '{split}'")
        return [member for member in self.members(split) if not names or member[1].name in names]

    def teachers(self, training: Sequence[Member]) -> dict[str, TeacherInfo]:
        """Return the teachers to learn from; each must be the same network everywhere, and all have one patch grid."""
        available = sorted({name for _, dataset in training for name in dataset.teachers})
        wanted = sorted(set(self.recipe.data.teachers) or available)
        for position, name in enumerate(self.recipe.data.teachers):
            if name not in available:
                self._unknown(f"data.teachers[{position}]", name, available)
        if not available and training:
            self.problems.append("no teacher's tokens in these datasets. Run: codistill extract run")
        teachers: dict[str, TeacherInfo] = {}
        for _, dataset in training:
            for name in (name for name in wanted if name in dataset.teachers):
                teacher = replace(dataset.teacher(name), code=None)  # how tokens are stored is the dataset's
                self._check_same(teachers.setdefault(name, teacher), teacher, dataset)
        grids = {name: teacher.patch_grid for name, teacher in teachers.items()}
        if len(set(grids.values())) > 1:
            listed = ", ".join(f"{name} {rows}x{columns}" for name, (rows, columns) in sorted(grids.items()))
            self.problems.append(f"patch grids of the teachers differ: {listed}")
        return dict(sorted(teachers.items()))

    def check_codes(self, training: Sequence[Member], held_out: Sequence[Member], teachers: Iterable[str]) -> None:
        """Check that each teacher's codes are of one code, whatever their cache, and fit the targets' statistics."""
        averaged = []
        for name in teachers:
            codes = [
                (f"'{dataset.name}' of '{self.caches[number].location}'", code.digest)
                for number, dataset in (*training, *held_out)
                for code in stored_codes(dataset, _available((number, dataset), [name])).values()
            ]
            if len({digest for _, digest in codes}) > 1:
                self.problems.append(different_codes(name, codes))
            if any(stored_codes(dataset, _available((number, dataset), [name])) for number, dataset in training):
                averaged.append(name)
        if averaged and self.recipe.targets.norm == "ema":
            self.problems.append(
                f"targets.norm: 'ema' would take the noise of codes for spread of {', '.join(averaged)}; exact "
                "statistics are those of the true tokens. Use --targets.norm exact"
            )

    def reads(self, training: Sequence[Member], teachers: Mapping[str, TeacherInfo]) -> dict[str, tuple[str, ...]]:
        """Return the teachers whose tokens are read, by group."""
        groups = sorted({dataset.group for _, dataset in training})
        generic = self.recipe.sharing.generic_groups
        if self.recipe.sharing.mode == "generic" and not set(generic) & set(groups):
            asked, here = ", ".join(generic) or "nothing", ", ".join(groups)
            self.problems.append(f"sharing.generic_groups: none of {asked} is here; groups: {here}")
        try:
            table = eligibility_table(
                self.recipe.sharing.mode,
                groups=groups,
                teacher_groups={name: teacher.groups for name, teacher in teachers.items()},
                generic_groups=generic,
            )
        except InvalidInput as error:
            self.problems.append(str(error))
            return {}
        if self.recipe.targets.norm == "ema":
            table = np.ones_like(table)  # running averages are over all images of a batch, as released
        reads = {
            group: tuple(name for name, used in zip(teachers, column, strict=True) if used)
            for group, column in zip(groups, table.T, strict=True)
        }
        for _, dataset in training:
            lacking = [name for name in reads[dataset.group] if name not in dataset.teachers]
            if lacking:
                self.problems.append(
                    f"dataset '{dataset.name}' has no tokens of {', '.join(lacking)}. Extract them, leave the dataset "
                    "out with --data.datasets, or the teacher with --data.teachers"
                )
        return reads

    def check_rows(self, sources: Sequence[Source]) -> None:
        for name, members in by_group(sources).items():
            if not any(len(source.rows) for source in members):
                needed = sorted({array for source in members for array in source.reads})
                subset = f" and meets {self.recipe.data.subset!r}" if self.recipe.data.subset else ""
                self.problems.append(f"group '{name}': no row is ok in pixels, {', '.join(needed)}{subset}")

    def _check_same(self, first: TeacherInfo, other: TeacherInfo, dataset: Dataset) -> None:
        for attribute in ("identity_digest", "patch_grid", "prefix_tokens", "channels", "groups"):
            ours, theirs = getattr(first, attribute), getattr(other, attribute)
            if ours != theirs:
                self.problems.append(
                    f"teacher '{first.name}' in '{dataset.name}': {attribute} is {theirs}, elsewhere {ours}"
                )

    def _unknown(self, where: str, name: str, available: Iterable[str]) -> None:
        known = sorted(available)
        listed = ", ".join(known) or "none"
        self.problems.append(f"{where}: '{name}' is not in this cache{near_miss(name, known)}; available: {listed}")


def _sorted(members: Iterable[Member]) -> list[Member]:
    """Sort by name and then cache, so that datasets of one name are neighbours."""
    return sorted(members, key=lambda member: (member[1].name, member[0]))


def _available(member: Member, teachers: Iterable[str]) -> tuple[str, ...]:
    """Return the names of `teachers` whose tokens a dataset has."""
    available = member[1].teachers
    return tuple(name for name in teachers if name in available)


def _source(cache: int, dataset: Dataset, *, reads: tuple[str, ...], subset: Expression = None) -> Source:
    return Source(cache=cache, dataset=dataset, rows=usable_rows(dataset, reads, subset=subset), reads=reads)


def by_group(sources: Iterable[Source]) -> dict[str, tuple[Source, ...]]:
    """Return the sources of each group, both in order."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.dataset.group, []).append(source)
    return {name: tuple(groups[name]) for name in sorted(groups)}


def usable_rows(dataset: Dataset, teachers: Sequence[str], *, subset: Expression = None) -> RowList:
    """Return the rows that are ok in pixels and in the tokens of `teachers`, and that meet a subset's condition."""
    rows = np.asarray(dataset.valid_rows(teachers), dtype=np.int64)
    if subset is not None:
        rows = np.intersect1d(rows, _subset_rows(dataset, subset), assume_unique=True)
    return compact(rows)


def _subset_rows(dataset: Dataset, subset: Expression) -> Int64:
    try:
        table = dataset.manifest(["row"], subset)
    except pa.ArrowException as error:  # such as a product too large for int32
        raise InvalidConfig("data.subset", [f"on the rows of '{dataset.name}': {error}"]) from None
    return np.asarray(table.column("row").to_numpy(), dtype=np.int64)


def compact(rows: Int64) -> RowList:
    """Return ascending rows as a range if none is left out, else as small integers."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return range(int(rows[0]), int(rows[-1]) + 1)
    return rows.astype(np.uint32)


def status_digest(status: "np.ndarray[Any, np.dtype[np.uint8]]") -> str:
    """Return the sha256 of the status of all rows."""
    return hashlib.sha256(np.ascontiguousarray(status).tobytes()).hexdigest()
