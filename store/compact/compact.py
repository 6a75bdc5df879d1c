"""Conversion of a cache: the same rows, tokens of training datasets in a code or compressed, everything else shared.

The source is only read. Shards are made one by one, first publisher wins: a conversion may be killed anywhere, run
again and by several jobs at once, and gives the same cache.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from tqdm import tqdm

from store import errors
from store.cache.cache import Cache, create
from store.cache.cache import open as open_cache
from store.cache.dataset import Dataset
from store.common.threads import ordered_map
from store.compact import archive, forms
from store.compact.choose_code import Target, choose, description, refuse_ratio, refuse_ratio_of_held_out
from store.compact.encode_shards import write_codes
from store.compact.forms import form_of, refuse_other_form
from store.compact.tokens_of_source import shards_of
from store.compact.transfer import objects_below, take_over
from store.format import schema
from store.format.calibration_sample import Basis
from store.format.schema import PIXELS
from store.sealing.seal import SealReport, seal
from store.storage.base import Location

WORKERS = 4

Task = Callable[[], bool]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CompactReport:
    """Result of a conversion.

    Attributes:
        cache: new cache, sealed.
        notes: sentences for people, about calibration.
        converted: shards that this call wrote.
        present: shards that were there already, or that another job wrote.
        seal: report of the seal.
    """

    cache: Cache
    notes: tuple[str, ...]
    converted: int
    present: int
    seal: SealReport


def compact(
    location: Location,
    out: Location,
    *,
    ratio: float | None = None,
    lossless: bool = False,
    teachers: Sequence[str] = (),
    basis: Basis = "pca",
    progress: bool = False,
) -> CompactReport:
    """Make a smaller cache of the same rows.

    Pixels, held-out datasets and teachers not named keep their form; their files are linked, or copied where they
    cannot be.

    Args:
        location: path or URL of the cache to convert; it is not changed.
        out: path or URL of the new cache, which may have been begun by an earlier call.
        ratio: bytes of float16 tokens over those of their codes.
        lossless: compress float16 tokens instead, of all datasets; the source must be sealed.
        teachers: names of the teachers to convert; all if empty.
        basis: kind of code.
        progress: show progress bars.

    Raises:
        errors.InvalidInput: not exactly one of ratio and lossless, `out` is the source, or the ratio cannot be met.
        errors.MissingName: a teacher is in no dataset; the available ones are listed.
        errors.Conflict: `out` was begun from another cache or with another ratio.
        errors.OutputExists: `out` holds something else.
        errors.MissingExtra: what compresses is not installed.
    """
    if (ratio is None) != lossless:
        raise errors.InvalidInput("give either a ratio, for example --ratio 16, or --lossless")
    source = open_cache(location)
    _refuse_same_place(source, out)
    chosen = _chosen(source, teachers)
    if lossless:
        archive.require_codec()
    if ratio is not None:
        _refuse_ratio(source, chosen, ratio)
    target = create(out, source.recipe)
    _refuse_other_forms(source, target, chosen, lossless=lossless)
    for dataset in source.parts():
        begin_dataset(dataset, target)
    if ratio is None:
        plan = _archive_plan(source, target, chosen)
    else:
        plan = _code_plan(source, target, chosen, ratio=ratio, basis=basis)
    for dataset in source.parts():
        for teacher in dataset.teachers:
            if (dataset.name, teacher) not in plan.converted:
                share_teacher(dataset, target.part(dataset.name), teacher)
    done = _run(plan.tasks, progress=progress)
    report = seal(target, progress=progress)
    return CompactReport(
        cache=target,
        notes=plan.notes,
        converted=len(done) - sum(done),
        present=plan.present + sum(done),
        seal=report,
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be converted.

    Attributes:
        converted: (dataset, teacher) of the arrays in another form.
        tasks: one a shard that is to be made.
        present: number of the others.
        notes: sentences for people.
    """

    converted: frozenset[tuple[str, str]]
    tasks: tuple[Task, ...]
    present: int
    notes: tuple[str, ...]


def _refuse_ratio(source: Cache, chosen: Sequence[str], ratio: float) -> None:
    """Refuse a ratio that a teacher cannot have, or that leaves nothing to do, before anything is written."""
    members = [
        (dataset, teacher)
        for dataset in filter(_gets_codes, source.parts())
        for teacher in dataset.teachers
        if teacher in chosen
    ]
    for dataset, teacher in members:
        refuse_ratio(dataset, teacher, ratio)
    converted = {teacher for _, teacher in members}
    for dataset in (dataset for dataset in source.parts() if not _gets_codes(dataset)):
        for teacher in converted.intersection(dataset.teachers):
            refuse_ratio_of_held_out(dataset, teacher, ratio)
    codes = [dataset.teacher(teacher).code for dataset, teacher in members]
    if codes and all(code is not None and code.ratio == ratio for code in codes):
        raise errors.InvalidInput(
            f"all training tokens of {', '.join(chosen)} in {source.location} are stored in a code of ratio {ratio:g} "
            f"already: there is nothing to convert. Ask for more than {ratio:g}, or use the cache as it is"
        )


def begin_dataset(source: Dataset, target: Cache) -> Dataset:
    """Create a dataset in the new cache with the pixels of the source; nothing happens where it is there already."""
    storage = source.storage
    node = source.array(PIXELS)
    take_over(storage, target.storage, [schema.images_key(source.name)])  # its bytes are part of what pixels are
    if node.layout is None:
        take_over(storage, target.storage, objects_below(storage, node.path))
    if source.part is None:
        created = _create(source, target)
    else:
        images, number = source.image_list(), source.part.number
        created = target.create_part(source.part.dataset, images=images, source=source.source, number=number)
    if node.layout is not None:
        take_over(storage, target.storage, map(node.shard_key, sorted(source.present(PIXELS))))
    return created


def _create(source: Dataset, target: Cache) -> Dataset:
    return target.create_dataset(
        source.name,
        images=source.image_list(),
        group=source.group,
        split=cast(Literal["train", "val"], source.split),
        mode=cast(Literal["train", "center"], source.mode),
        views=source.views,
        first_view=source.first_view,
        source=source.source,
    )


def share_teacher(source: Dataset, target: Dataset, teacher: str) -> None:
    """Give a dataset of the new cache the tokens or codes of a teacher as the source has them."""
    node = source.array(teacher)
    if node.layout is None:
        below = f"{schema.HIERARCHY}/{source.name}/{teacher}"
        take_over(source.storage, target.storage, objects_below(source.storage, below))
        return
    code = None if source.teacher(teacher).code is None else source.code(teacher)
    target.create_teacher(teacher, **description(source, teacher), code=code)
    take_over(source.storage, target.storage, map(node.shard_key, sorted(source.present(teacher))))


def _code_plan(source: Cache, target: Cache, chosen: Sequence[str], *, ratio: float, basis: Basis) -> _Plan:
    converted: list[tuple[str, str]] = []
    tasks: list[Task] = []
    notes: list[str] = []
    present = 0
    provenance = {"compacted_from": source.uuid}
    for teacher in chosen:
        datasets = [dataset.name for dataset in source.parts() if teacher in dataset.teachers and _gets_codes(dataset)]
        if not datasets:
            notes.append(f"'{teacher}' has no training dataset: its tokens are kept as they are")
            continue
        into = choose(source, target, teacher, datasets, ratio=ratio, basis=basis)
        kept = [name for name in datasets if into.is_of_source and source.part(name).teacher(teacher).code is not None]
        notes += [into.note] if into.note else []
        notes += [f"'{teacher}': has ratio {ratio:g} in {', '.join(kept)}; these codes are kept"] if kept else []
        for name in (name for name in datasets if name not in kept):
            shards = shards_of(source.part(name), teacher)
            there = target.part(name).present(teacher)
            present += len(there.intersection(shards))
            tasks += [
                partial(_write_codes, source.part(name), target.part(name), teacher, shard, into, provenance)
                for shard in shards
                if shard not in there
            ]
            converted.append((name, teacher))
    return _Plan(converted=frozenset(converted), tasks=tuple(tasks), present=present, notes=tuple(notes))


def _write_codes(
    source: Dataset, target: Dataset, teacher: str, shard: int, into: Target, provenance: dict[str, str]
) -> bool:
    return write_codes(source, target, teacher, shard, into=into, provenance=provenance)


def _archive_plan(source: Cache, target: Cache, chosen: Sequence[str]) -> _Plan:
    converted: list[tuple[str, str]] = []
    tasks: list[Task] = []
    notes: list[str] = []
    present = 0
    for dataset in source.parts():
        for teacher in (name for name in dataset.teachers if name in chosen):
            if form_of(dataset, teacher) != forms.TOKENS:
                notes.append(f"'{dataset.name}/{teacher}' is not stored as plain float16 tokens: it is kept as it is")
                continue
            archive.begin_archive(dataset, target.part(dataset.name), teacher)
            there = target.part(dataset.name).present(teacher)
            shards = sorted(dataset.present(teacher))
            present += len(there.intersection(shards))
            tasks += [
                partial(archive.write_archive, dataset, target.part(dataset.name), teacher, shard)
                for shard in shards
                if shard not in there
            ]
            converted.append((dataset.name, teacher))
    return _Plan(converted=frozenset(converted), tasks=tuple(tasks), present=present, notes=tuple(notes))


def _gets_codes(dataset: Dataset) -> bool:
    return dataset.split == "train"


def _refuse_other_forms(source: Cache, target: Cache, chosen: Sequence[str], *, lossless: bool) -> None:
    """Refuse a target that an earlier command began with other forms of tokens, before anything is written to it."""
    for dataset in (dataset for dataset in source.parts() if dataset.name in target.stored_names):
        for teacher in dataset.teachers:
            form = form_of(dataset, teacher)
            if teacher in chosen and lossless and form == forms.TOKENS:
                form = forms.ARCHIVE
            elif teacher in chosen and not lossless and _gets_codes(dataset):
                form = forms.CODES
            refuse_other_form(target.part(dataset.name), teacher, asked=form)


def _run(tasks: Sequence[Task], *, progress: bool) -> list[bool]:
    """Run tasks on some threads; the first error ends it once the shards that were begun are done."""
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1), thread_name_prefix="codistill-compact") as pool:
        results: Iterator[bool] = ordered_map(pool, _call, tasks, ahead=WORKERS)
        return list(tqdm(results, total=len(tasks), desc="compact", unit="shard", disable=not progress or not tasks))


def _call(task: Task) -> bool:
    return task()


def _chosen(source: Cache, teachers: Sequence[str]) -> list[str]:
    available = sorted({teacher for dataset in source.parts() for teacher in dataset.teachers})
    unknown = sorted(set(teachers) - set(available))
    if unknown:
        raise errors.MissingName(f"{source.location} has no teacher {unknown}; available: {', '.join(available)}")
    return [teacher for teacher in available if not teachers or teacher in teachers]


def _refuse_same_place(source: Cache, out: Location) -> None:
    text = os.fspath(out)
    places = [os.path.realpath(place) if "://" not in place else place.rstrip("/") for place in (source.location, text)]
    if places[0] == places[1]:
        raise errors.InvalidInput(
            f"--out is the cache itself, which is never changed. Choose another place than {text}"
        )
    if places[1].startswith(f"{places[0]}/"):
        raise errors.InvalidInput(
            f"--out lies inside the cache, which is never changed. Choose another place than {text}"
        )
