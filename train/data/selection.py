"""Selection of a run: the datasets, rows and teachers that it uses, recorded at its start and found again later.

What a cache holds besides, or gets later, changes nothing for the run.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import store
from store import Cache, Dataset
from store.cache.joined_dataset import by_part, parts_of
from store.common.row_filter import Expression
from store.common.row_filter import parse as parse_subset
from store.common.text import some, some_rows
from store.errors import Conflict, MissingName
from store.format import manifest
from store.format.schema import CODES, OK, PIXELS, differences
from store.format.trailer import digest_of
from train.data.mixture import Mixture, RowList, Source, stored_codes
from train.data.open_caches import (
    Description,
    by_group,
    compact,
    describe,
    described_teacher,
    described_teachers,
    status_digest,
    usable_rows,
)
from train.recipe.config import Recipe

LISTED = 5  # rows or shards named in a message
STATES = {0: "missing", 1: "ok", 2: "failed"}

Arrays = Mapping[str, "np.ndarray[Any, np.dtype[np.uint8]]"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Datasets, rows and teachers of a run.

    Attributes:
        description: content of `cache.json`, from `train.data.open_caches.describe`.
        rows: content of `rows.npz`: for a dataset `D` of the cache with number N, `used/N/D` holds one bit for each
            row, `pixels_ok/N/D` the same for the rows whose pixels were ok, and `pixels/N/D` uint8 (shards, 32) the
            digests of the pixel shards. None for runs that were begun before there was this file.
    """

    description: Description
    rows: Arrays | None = None

    @property
    def uuids(self) -> list[str]:
        """Uuids of the caches, in the order of the command line."""
        return [cache["uuid"] for cache in self.description["caches"]]


def select(mixture: Mixture) -> Selection:
    """Return the selection that a mixture is."""
    rows: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}
    for source in (*mixture.sources, *mixture.held_out):
        dataset, name = source.dataset, f"{source.cache}/{source.dataset.name}"
        used = np.zeros(dataset.rows, np.bool_)
        used[slice(source.rows.start, source.rows.stop) if isinstance(source.rows, range) else source.rows] = True
        rows[f"used/{name}"] = np.packbits(used)
        rows[f"pixels_ok/{name}"] = np.packbits(dataset.status(PIXELS) == OK)
        digests = dataset.pixels_digests()
        if digests is not None:
            rows[f"pixels/{name}"] = digests
    return Selection(description=describe(mixture), rows=rows)


def open_selected(
    selection: Selection,
    locations: Sequence[str],
    *,
    recipe: Recipe,
    owner: str,
    changes: Sequence[str] = (),
    begins: bool = False,
    exact: bool = True,
) -> Mixture:
    """Open the caches of a run that was begun and find its rows again.

    Args:
        selection: selection of the run.
        locations: where the caches are now, in any order.
        recipe: recipe of the run.
        owner: name of the run in messages.
        changes: differences of the recipe, reported with those found here.
        begins: the statistics of the targets are still to be computed, so their datasets must be there.
        exact: refuse a changed status where the rows were not recorded (older runs); False takes the rows usable now.

    Raises:
        Conflict: these are other caches, or what the run uses has changed; both values are shown.
        MissingCache, NotSealed: from the caches.
    """
    caches = in_recorded_order(selection, [store.open(location) for location in locations], owner=owner)
    subset = parse_subset(recipe.data.subset, manifest.SCHEMA) if recipe.data.subset else None
    finder = _Finder(selection=selection, caches=caches, subset=subset, begins=begins, exact=exact)
    problems = [*changes, *finder.problems()]
    if problems:
        raise Conflict(
            f"{owner} was started with another recipe or other data. {'. '.join(problems)}. Give those it was started "
            "with, or choose another --out"
        )
    sources = finder.sources("train")
    mixture = Mixture(
        caches=caches,
        image_size=int(caches[0].recipe["image_size"]),
        teachers=described_teachers(selection.description),
        groups=by_group(sources),
        held_out=tuple(finder.sources("val")),
        reference={},
    )
    reference = finder.references()
    if not reference and recipe.targets.statistics == "cache":  # begun before they were recorded
        reference = finder.all_references(mixture)
    return replace(mixture, reference=by_group(reference) if reference else mixture.groups)


def left_out(mixture: Mixture, *, recipe: Recipe) -> str:
    """Say what the caches hold by now that the recipe would select and the run does not use; empty if nothing."""
    used = {(source.cache, source.dataset.name) for source in (*mixture.sources, *mixture.held_out)}
    new: list[str] = []
    for number, cache in enumerate(mixture.caches):
        for dataset in cache:
            chosen = recipe.data.datasets if dataset.split == "train" else recipe.data.val_datasets
            wanted = not chosen or dataset.name in chosen
            if wanted and (number, dataset.name) not in used and set(dataset.teachers) & set(mixture.teachers):
                new.append(f"dataset '{dataset.name}'")
    if not recipe.data.teachers:
        available = {name for source in mixture.sources for name in source.dataset.teachers}
        new += [f"teacher '{name}'" for name in sorted(available - set(mixture.teachers))]
    if not recipe.data.subset:
        for source in (*mixture.sources, *mixture.held_out):
            whole = mixture.caches[source.cache][source.dataset.name]
            more = len(whole.valid_rows(source.reads)) - len(source.rows)
            new += [f"{more:,} rows of '{source.dataset.name}'"] if more else []
    if not new:
        return ""
    return f"goes on with the datasets, rows and teachers that it began with; new and not used: {some(new, limit=8)}"


def in_recorded_order(selection: Selection, caches: Sequence[Cache], *, owner: str) -> tuple[Cache, ...]:
    """Return the caches in the order in which a selection names them.

    Raises:
        Conflict: they are others; both uuids are shown.
    """
    recorded, asked = selection.uuids, [cache.uuid for cache in caches]
    if Counter(recorded) != Counter(asked):
        raise Conflict(
            f"another cache: uuid {', '.join(recorded)}, asked {', '.join(asked)}. Give {owner} the cache that it was "
            "started with, or choose another --out"
        )
    return tuple(sorted(caches, key=lambda cache: recorded.index(cache.uuid)))


@dataclass(frozen=True, kw_only=True)
class _Finder:
    """Finds recorded datasets and rows in caches."""

    selection: Selection
    caches: tuple[Cache, ...]
    subset: Expression
    begins: bool
    exact: bool

    def problems(self) -> list[str]:
        """Return the changes that forbid to go on, each with both values."""
        stored, size = self.selection.description["image_size"], int(self.caches[0].recipe["image_size"])
        problems = differences({"image_size": stored}, {"image_size": size})
        for number, name, entry in self._recorded():
            try:
                dataset = self._dataset(number, name, entry)
                changed = self._changes(dataset, entry)
                problems += changed or self._rows_changed(number, dataset, entry)
            except MissingName as error:
                problems.append(f"'{name}' is used and gone: {error}")
        if self.begins:
            problems += [
                f"'{name}' is used for the targets' statistics and gone"
                for number, cache in enumerate(self.selection.description["caches"])
                for name in sorted(set(cache.get("reference", {})) - set(self.caches[number].datasets))
            ]
        return problems

    def sources(self, split: str) -> list[Source]:
        """Return the recorded datasets of a split with the recorded rows."""
        found = []
        for number, name, entry in self._recorded():
            if entry["split"] == split:
                dataset, reads = self._dataset(number, name, entry), _reads(entry)
                rows = self._rows(number, dataset, entry)
                found.append(Source(cache=number, dataset=dataset, rows=rows, reads=reads))
        return sorted(found, key=lambda source: (source.dataset.name, source.cache))

    def references(self) -> list[Source]:
        """Return the datasets that the targets' statistics were recorded to come from."""
        found = []
        for number, cache in enumerate(self.selection.description["caches"]):
            for name, entry in cache.get("reference", {}).items():
                if name in self.caches[number].datasets:
                    dataset = self._dataset(number, name, {**cache["datasets"].get(name, {}), **entry})
                    found.append(_whole(number, dataset, tuple(entry["reads"])))
        return sorted(found, key=lambda source: (source.dataset.name, source.cache))

    def all_references(self, mixture: Mixture) -> list[Source]:
        """Return all training datasets of the caches."""
        found = [
            _whole(number, dataset, tuple(name for name in mixture.teachers if name in dataset.teachers))
            for number, cache in enumerate(self.caches)
            for dataset in cache
            if dataset.split == "train"
        ]
        return sorted(found, key=lambda source: (source.dataset.name, source.cache))

    def _dataset(self, number: int, name: str, entry: Mapping[str, Any]) -> Dataset:
        """Return a dataset with the parts that it had when the run began: others may have been added since."""
        cache = self.caches[number]
        return cache.as_of(name, rows=entry["rows"]) if "rows" in entry else cache[name]

    def _recorded(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        for number, cache in enumerate(self.selection.description["caches"]):
            for name, entry in cache["datasets"].items():
                yield number, name, entry

    def _changes(self, dataset: Dataset, entry: Mapping[str, Any]) -> list[str]:
        """Compare what is recorded of a dataset and its teachers."""
        now = {
            "group": dataset.group,
            "split": dataset.split,
            "rows": dataset.rows,
            "pixels_identity": dataset.identity_digest(PIXELS),
        }
        changed = differences(
            {key: entry[key] for key in now if key in entry}, {k: v for k, v in now.items() if k in entry}
        )
        for name in _reads(entry):
            then = _without_identity(self.selection.description["teachers"][name])
            teacher = _without_identity(described_teacher(dataset.teacher(name)))
            changed += differences(then, teacher, path=f"teacher '{name}'")
        digests = {name: code.digest for name, code in stored_codes(dataset, _reads(entry)).items()}
        changed += differences(_forms(entry, entry.get(CODES, {})), _forms(entry, digests), path="stored form")
        return [f"'{dataset.name}': {line}" for line in changed]

    def _rows_changed(self, number: int, dataset: Dataset, entry: Mapping[str, Any]) -> list[str]:
        """Compare the rows that are used: their status and their pixels."""
        if self._bits("used", number, dataset) is None:
            if not self.exact:
                return []
            now = {array: status_digest(dataset.status(array)) for array in entry["status"]}
            return differences(entry["status"], now, path=f"'{dataset.name}': status")
        rows = self._rows(number, dataset, entry)
        index = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        changed = []
        for array in (PIXELS, *_reads(entry)):
            status = dataset.status(array)[index]
            wrong = np.flatnonzero(status != OK)
            if len(wrong):
                names = ", ".join(STATES[state] for state in np.unique(status[wrong]).tolist())
                numbers = (np.asarray(rows)[wrong]).tolist()
                changed.append(f"'{dataset.name}': {array} of {some_rows(numbers)}: stored ok, now {names}")
        return changed or self._other_pixels(number, dataset, rows)

    def _other_pixels(self, number: int, dataset: Dataset, rows: RowList) -> list[str]:
        assert self.selection.rows is not None
        stored, now = self.selection.rows.get(f"pixels/{number}/{dataset.name}"), dataset.pixels_digests()
        pixels_ok = self._bits("pixels_ok", number, dataset)
        if stored is None or now is None or pixels_ok is None or stored.shape != now.shape:
            return []
        numbers, changed = np.asarray(rows), []
        differing = (stored != now).any(axis=1)
        for part, places in by_part(dataset, numbers):
            first = sum(other.shards for other in parts_of(dataset) if other.first_row < part.first_row)
            used = np.unique((numbers[places] - part.first_row) // part.shard_rows)
            for shard in used[differing[first + used]].tolist():
                # More rows of the shard may be ok by now: the digest of those that were ok then decides.
                trailer = part.read_trailer(PIXELS, shard)
                ok = pixels_ok[part.first_row + trailer.rows.start : part.first_row + trailer.rows.stop]
                digest = digest_of(trailer.rows, np.where(ok, trailer.status, 0).astype(np.uint8), trailer.crc32c)
                before = stored[first + shard].tobytes().hex()
                if digest != before:
                    changed.append(f"shard {shard}: stored {before[:12]}, now {digest[:12]}")
        return [f"pixels of '{dataset.name}': {some(changed, limit=LISTED, separator='; ')}"] if changed else []

    def _rows(self, number: int, dataset: Dataset, entry: Mapping[str, Any]) -> RowList:
        used = self._bits("used", number, dataset)
        if used is None:
            return usable_rows(dataset, _reads(entry), subset=self.subset if entry["split"] == "train" else None)
        return compact(np.flatnonzero(used))

    def _bits(self, kind: str, number: int, dataset: Dataset) -> "np.ndarray[Any, np.dtype[np.bool_]] | None":
        packed = None if self.selection.rows is None else self.selection.rows.get(f"{kind}/{number}/{dataset.name}")
        if packed is None or len(packed) != -(-dataset.rows // 8):
            return None
        return np.unpackbits(packed, count=dataset.rows).astype(np.bool_)


def _whole(number: int, dataset: Dataset, reads: tuple[str, ...]) -> Source:
    return Source(cache=number, dataset=dataset, rows=usable_rows(dataset, reads), reads=reads)


def _reads(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(array for array in entry["status"] if array != PIXELS)


def _forms(entry: Mapping[str, Any], codes: Mapping[str, str]) -> dict[str, str]:
    """Return in which form the tokens of each teacher are stored: the digest of their code, or float16."""
    return {name: codes.get(name, "float16") for name in _reads(entry)}


def _without_identity(teacher: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in teacher.items() if key != "identity"}  # its digest stays
