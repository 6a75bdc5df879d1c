"""The first page: what the cache holds, how complete it is, what failed. Quick however large the cache is.

A large sealed cache is told from the records of its seal; what takes listing a hundred thousand files (bytes) or many
small reads (distortion) is found in the background and told when the page asks again.
"""

from collections import Counter
from typing import Any

import store
from eval.view.failures import NO_PIXELS, failures_of
from eval.view.jobs import READY, Progress
from eval.view.opened import Opened
from eval.view.parameters import finite
from store import errors
from store.cache.metadata import TeacherInfo
from store.cache.seal_record import Record, read_record
from store.format.manifest import SCHEMA
from store.format.schema import PIXELS
from store.inspection.health import sentence
from store.inspection.info import ArrayInfo, CacheInfo, inspect

FEW_SHARDS = 2000  # of all arrays, with which everything is told at once
COUNTED_BYTES = 2**20
LISTS = frozenset({"selected", "sorted"})  # what is remembered of lists of rows


def overview(opened: Opened) -> dict[str, Any]:
    """Answer `/api/overview`; `state` is `counting` while bytes and distortion are still being found."""
    listing = opened.listing(again=True)
    shards = sum(dataset.shards * (1 + len(listing.teachers[name])) for name, dataset in listing.datasets.items())
    info: CacheInfo | None = None
    state, failures = READY, None
    if shards <= FEW_SHARDS:
        info, failures = inspect(opened.cache), failures_of(opened)
    else:
        job = opened.jobs.start("count", lambda progress: _count(opened, progress))
        state = "counting" if job.state != READY else READY
        if job.state == READY:
            info, failures = job.result
    known = {} if info is None else {(d.name, a.name): a for d in info.datasets for a in d.arrays}
    datasets = [_dataset(opened, dataset, known) for dataset in listing.datasets.values()]
    _forget_lists(opened, [array["status"] for dataset in datasets for array in dataset["arrays"]])
    return {
        "cache": opened.cache.location,
        "uuid": opened.cache.uuid,
        "state": state,
        "sentence": _counting(datasets) if info is None else sentence(info),
        "datasets": datasets,
        "teachers": _teachers(opened),
        "runs": [{"name": name, "path": str(run.directory)} for name, run in opened.runs.items()],
        "failures": _recorded_failures(opened) if failures is None else failures,
        "columns": SCHEMA.names,
    }


def _count(opened: Opened, progress: Progress) -> tuple[tuple[CacheInfo, list[dict[str, Any]]], int]:
    info = inspect(opened.cache)
    progress(0.5)
    return (info, failures_of(opened)), COUNTED_BYTES


def _dataset(opened: Opened, dataset: store.Dataset, known: dict[tuple[str, str], ArrayInfo]) -> dict[str, Any]:
    teachers = opened.listing().teachers[dataset.name]
    others = [name for (owner, name) in known if owner == dataset.name and name not in (PIXELS, *teachers)]
    parts = tuple(part for part, _ in opened.listing().parts[dataset.name])
    arrays = [
        _array(dataset, parts, name, teachers.get(name), known.get((dataset.name, name)))
        for name in (PIXELS, *teachers, *others)
    ]
    return {
        "name": dataset.name,
        "split": dataset.split,
        "group": dataset.group,
        "rows": dataset.rows,
        "images": dataset.images,
        "views": dataset.views,
        "first_view": dataset.first_view,
        "parts": len(parts),
        "pixels": [dataset.image_size, dataset.image_size],
        "image_size": dataset.image_size,
        "photographs": opened.images_folder(dataset) is not None,
        "columns": SCHEMA.names,
        "arrays": arrays,
    }


def _array(
    dataset: store.Dataset,
    parts: tuple[store.Dataset, ...],
    name: str,
    info: TeacherInfo | None,
    known: ArrayInfo | None,
) -> dict[str, Any]:
    patch = None if known is None or known.code is None else known.code.patch
    return {
        "name": name,
        "status": _status(dataset, parts, name, known),
        "bytes": None if known is None else known.stored_bytes,
        "ratio": None if info is None or info.code is None else info.code.ratio,
        "noise": None if patch is None else finite(patch.noise),
        "slope": None if patch is None else finite(patch.slope),
        "identity": _identity(dataset, info),
        "identity_full": dict(dataset.source) if info is None else info.identity,
        "identity_digest": _digest(dataset, name),
        "random_weights": info is not None and bool(info.random_weights),
        "notes": [] if known is None else list(known.notes),
    }


def _status(
    dataset: store.Dataset, parts: tuple[store.Dataset, ...], name: str, known: ArrayInfo | None
) -> dict[str, int | None]:
    if known is not None:
        return {"ok": known.ok, "failed": known.failed, "missing": known.missing, "unsealed": known.unsealed}
    found = [_record(part, name) for part in parts]
    if None in found:
        return {"ok": None, "failed": None, "missing": None, "unsealed": None}
    ok, failed = (sum(record.counts.get(state, 0) for record in found if record) for state in ("ok", "failed"))
    return {"ok": ok, "failed": failed, "missing": dataset.rows - ok - failed, "unsealed": 0}


def _forget_lists(opened: Opened, statuses: list[dict[str, int | None]]) -> None:
    """Forget lists of rows if there are more rows than when the overview was last asked for."""
    if opened.memory.get("counted") != statuses:
        opened.memory.clear(LISTS)
    opened.memory.put("counted", statuses, 0)


def _identity(dataset: store.Dataset, info: TeacherInfo | None) -> str:
    """Return an identity in a few words: architecture and weights; of pixels their source."""
    if info is None:
        return str(dataset.source.get("kind", ""))
    architecture = info.identity.get("architecture")
    name = architecture.get("name") if isinstance(architecture, dict) else architecture
    weights = info.identity.get("weights_sha256") or info.identity.get("weights")
    shown = info.random_note or (f"weights {str(weights)[:12]}" if weights else "")
    return ", ".join(str(part) for part in (name, shown) if part) or info.identity_digest[:12]


def _digest(dataset: store.Dataset, name: str) -> str:
    try:
        return dataset.identity_digest(name)
    except errors.CodistillError:  # not written by codistill
        return ""


def _teachers(opened: Opened) -> list[dict[str, Any]]:
    """Return every teacher once, with the datasets that have its tokens."""
    listing = opened.listing()
    found: dict[str, dict[str, Any]] = {}
    for dataset, teachers in listing.teachers.items():
        for name, info in teachers.items():
            entry = found.setdefault(
                name,
                {
                    "name": name,
                    "channels": info.channels,
                    "patch_grid": list(info.patch_grid),
                    "prefix_tokens": info.prefix_tokens,
                    "random_weights": bool(info.random_weights),
                    "datasets": [],
                },
            )
            entry["datasets"].append(dataset)
    return [found[name] for name in sorted(found)]


def _counting(datasets: list[dict[str, Any]]) -> str:
    """Return what is known of the cache's state until all of it is."""
    arrays = [array for dataset in datasets for array in dataset["arrays"]]
    rows = sum(dataset["rows"] for dataset in datasets)
    counts = {name: sum(array["status"][name] or 0 for array in arrays) for name in ("failed", "missing")}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    unsealed = sum(array["status"]["ok"] is None for array in arrays)
    told = ", ".join(part for part in (told, f"{unsealed} arrays not sealed" if unsealed else "") if part)
    found = f"; of all arrays' rows, as sealed, {told}" if told else "; complete as sealed"
    return f"{rows:,} rows in {len(datasets)} datasets{found}. Files are being counted."


def _record(dataset: store.Dataset, name: str) -> Record | None:
    try:
        return read_record(dataset.storage, dataset=dataset.name, array=name)
    except errors.CodistillError:
        return None


def _recorded_failures(opened: Opened) -> list[dict[str, Any]]:
    """Return the failures that the records of seals count, without rows yet."""
    found = []
    for dataset in opened.listing().datasets.values():
        for name in (PIXELS, *opened.listing().teachers[dataset.name]):
            counts = Counter[str]()
            for part, _ in opened.listing().parts[dataset.name]:
                record = _record(part, name)
                counts.update({} if record is None else record.reasons)
            found += [
                {"dataset": dataset.name, "array": name, "reason": reason, "count": count, "rows": []}
                for reason, count in counts.items()
                if name == PIXELS or reason != NO_PIXELS
            ]
    return found
