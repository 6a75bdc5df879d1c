"""Searching: the patches and the rows nearest to chosen patches, over a sample of rows, a dataset, or all of them.

An index of an array is built once, in the background. It gives candidates; the cosines told are those of the stored
tokens. A projection of a student is searched for among the tokens of its teacher.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.view import samples, tokens
from eval.view.cosines import query_of
from eval.view.index import MOST_VECTORS, PatchIndex, empty_index
from eval.view.jobs import READY, Progress
from eval.view.manifests import unsealed_shards
from eval.view.opened import Opened, checked_row
from eval.view.parts import parts_of
from eval.view.tokens import Float32
from store import errors

WHAT, SCOPES = ("patches", "rows"), ("sample", "dataset", "all")
SAMPLED_ROWS, STUDENT_ROWS = 1024, 64
FITTED_ROWS, FITTED_PATCHES = 64, 8192
READ_TOGETHER = 8
MOST_FOUND = 500
ROWS_READ_AGAIN = 96
CANDIDATES = 8  # candidates a result, before their true cosines are known
WHOLE_ROW = -1

Found = tuple[str, int, int, float]  # dataset, row, patch, cosine


def find(
    opened: Opened,
    dataset: str,
    row: int,
    array: str,
    *,
    patches: Sequence[int],
    what: str = "patches",
    scope: str = "sample",
    k: int = 60,
) -> dict[str, Any]:
    """Answer `/api/find`; `state` is `building` until the index is ready.

    Args:
        opened: what is shown.
        dataset, row, array: what is searched for; patches of a projection are searched for among its teacher's.
        patches: numbers of the patches whose mean direction is searched for. None: the row as a whole, by the mean of
            its patches.
        what: `patches`, or `rows`, each by the patch of it that is nearest.
        scope: rows that are searched: a `sample` of all datasets, this `dataset`, or `all`.
        k: number of results.
    """
    checked_row(opened.dataset(dataset), row)
    shape = tokens.shape_of(opened, dataset, array)
    chosen = tokens.checked_patches(patches, shape) if patches else []
    of_run = tokens.parts_of(array)
    searched = of_run[1] if of_run is not None and of_run[1] else array
    kind = "patches" if chosen else "rows"
    scope = "sample" if tokens.parts_of(searched) is not None else scope  # a student computes each of them
    names = [dataset] if scope == "dataset" else _datasets_with(opened, searched)
    unsealed = _unsealed_shards(opened, names, searched)
    growth = unsealed.bit_length()  # an index of a cache that is being extracted is built again at twice as many shards
    key: Hashable = ("index", searched, kind, scope, dataset if scope == "dataset" else "", growth)
    job = opened.jobs.start(
        key, lambda progress: _build(opened, searched, kind=kind, scope=scope, dataset=dataset, progress=progress)
    )
    if job.error:
        raise errors.InvalidInput(job.error)
    answer: dict[str, Any] = {"state": job.state, "progress": job.progress, "results": [], "note": None}
    if job.state != READY:
        return answer
    index, note, unsealed_then = job.result
    note = _with_unsealed(note, unsealed, added=unsealed - unsealed_then)
    (vectors,) = tokens.unit_patches(opened, dataset, [row], array)
    query = query_of(vectors, chosen or range(len(vectors)))
    if query is None:
        return answer | {"note": "the chosen patches are not stored"}
    itself = (dataset, row) if searched == array else None
    found = _nearest(opened, index, query, searched, what=what, itself=itself, chosen=chosen, k=min(k, MOST_FOUND))
    results = [
        {"dataset": name, "row": number, "patch": None if patch == WHOLE_ROW else patch, "cosine": cosine}
        for name, number, patch, cosine in found
    ]
    return answer | {"results": results, "note": note}


def _nearest(
    opened: Opened,
    index: PatchIndex,
    query: Float32,
    array: str,
    *,
    what: str,
    itself: tuple[str, int] | None,
    chosen: Sequence[int],
    k: int,
) -> list[Found]:
    """Return the best candidates by their true cosines; what was chosen itself is left out."""
    each = CANDIDATES * (16 if what == "rows" else 1)  # many patches of one row count once
    excluded = {(*itself, patch) for patch in (chosen or [WHOLE_ROW])} if itself is not None else set()
    candidates = [entry for entry in index.search(query, each * k + len(excluded)) if entry not in excluded]
    if what == "rows" and chosen and itself is not None:
        candidates = [entry for entry in candidates if entry[:2] != itself]
    by_row: dict[tuple[str, int], list[int]] = {}
    for dataset, row, patch in candidates:
        if (dataset, row) in by_row or len(by_row) < max(ROWS_READ_AGAIN, k if what == "rows" else 0):
            by_row.setdefault((dataset, row), []).append(patch)
    found: list[Found] = []
    for (dataset, row), patches in by_row.items():
        try:
            (vectors,) = tokens.unit_patches(opened, dataset, [row], array)
        except errors.CodistillError:  # it has gone, or is damaged, since the index was built
            continue
        if not chosen:
            found.append((dataset, row, WHOLE_ROW, _cosine(_mean(vectors), query)))
            continue
        if what == "rows":
            patches = [int(np.nanargmax(vectors @ query))]
        found += [(dataset, row, patch, _cosine(vectors[patch], query)) for patch in patches]
    return sorted(found, key=lambda entry: (-entry[3], entry[:3]))[:k]


def _build(
    opened: Opened, array: str, *, kind: str, scope: str, dataset: str, progress: Progress
) -> tuple[tuple[PatchIndex, str | None, int], int]:
    """Read rows and put their patches, or their means, into an index; also return how many shards had no seal."""
    names = [dataset] if scope == "dataset" else _datasets_with(opened, array)
    most = (STUDENT_ROWS if tokens.parts_of(array) else SAMPLED_ROWS) if scope == "sample" else None
    unsealed = _unsealed_shards(opened, names, array)
    usable = _usable_rows(opened, names, array)
    rows = _drawn(usable, most=most)
    total = sum(map(len, rows.values()))
    if not total:
        raise samples.none_usable(array)
    patches = max(tokens.shape_of(opened, name, array).patches for name in names)
    each = 1 if kind == "rows" else max(1, min(patches, MOST_VECTORS // total))
    index = empty_index(names, _fitted_to(opened, names, array, kind=kind), vectors=min(each * total, MOST_VECTORS))
    generator, done = np.random.default_rng(0), 0
    for number, name in enumerate(names):
        numbers = rows[name]
        for start in range(0, len(numbers), READ_TOGETHER):
            together = numbers[start : start + READ_TOGETHER].tolist()
            for row, vectors in _unit_vectors(opened, name, together, array):
                if kind == "rows":
                    index.add(number, row, np.array([WHOLE_ROW]), _mean(vectors)[None])
                else:
                    stored = np.flatnonzero(~np.isnan(vectors[:, 0]))
                    taken = np.sort(generator.permutation(stored)[:each]) if each < len(stored) else stored
                    index.add(number, row, taken, vectors[taken])
            done += len(together)
            progress(done / total)
    index.finish()
    everything = sum(map(len, usable.values()))
    note = _note(everything, total=total, each=each, patches=patches, kind=kind)
    return (index, note, unsealed), index.size_bytes


def _note(everything: int, *, total: int, each: int, patches: int, kind: str) -> str | None:
    parts = [f"searched a sample of {total:,} of {everything:,} rows"] if total < everything else []
    parts += [f"{each} of {patches} patches of each row"] if kind == "patches" and each < patches else []
    return ", ".join(parts) or None


def _with_unsealed(note: str | None, unsealed: int, *, added: int) -> str | None:
    """Return a note that also tells of shards without a seal, and of those that came after the index was built."""
    if not unsealed:
        return note
    told = f"{unsealed:,} shards have no seal: at most {samples.TRIED_SHARDS} of each dataset are searched"
    came = f"{added:,} of them came after the index was built" if added > 0 else ""
    return ", ".join(part for part in (note, told, came) if part)


def _unsealed_shards(opened: Opened, names: Sequence[str], array: str) -> int:
    """Return how many shards of an array exist that no seal covers; nothing is listed where all rows are sealed."""
    needed, count = samples.needed_arrays(array), 0
    for part in (part for name in names for part in parts_of(opened, name)):
        held = [one for one in needed if one in part.arrays]
        count += sum(len(unsealed_shards(opened, part.stored, one)) for one in held)
    return count


def _datasets_with(opened: Opened, array: str) -> list[str]:
    """Return the datasets that have an array with the same number of channels as the first."""
    names, channels = [], 0
    for name in opened.listing().datasets:
        try:
            shape = tokens.shape_of(opened, name, array)
        except errors.CodistillError:
            continue
        channels = channels or shape.channels
        if shape.channels == channels:
            names.append(name)
    return names


def _usable_rows(opened: Opened, names: Sequence[str], array: str) -> dict[str, npt.NDArray[np.int64]]:
    needed = samples.needed_arrays(array)
    sources = [opened.dataset(name) for name in names]
    return {source.name: samples.usable_rows(opened, source, needed, count=source.rows) for source in sources}


def _drawn(usable: Mapping[str, npt.NDArray[np.int64]], *, most: int | None) -> dict[str, npt.NDArray[np.int64]]:
    """Return about `most` of all rows, each dataset giving its share; None returns all."""
    everything = sum(map(len, usable.values()))
    if most is None or most >= everything:
        return dict(usable)
    generator, drawn = np.random.default_rng(0), {}
    for name, rows in usable.items():
        count = min(len(rows), max(1, round(most * len(rows) / everything)))
        drawn[name] = np.sort(generator.choice(rows, size=count, replace=False))
    return drawn


def _fitted_to(opened: Opened, names: Sequence[str], array: str, *, kind: str) -> Float32:
    """Return unit vectors like those to come."""
    few = 8 if tokens.parts_of(array) else max(1, FITTED_ROWS // len(names))
    if kind == "rows":
        rows = _drawn(_usable_rows(opened, names, array), most=few * len(names))
        pairs = [(name, numbers.tolist()) for name, numbers in rows.items() if len(numbers)]
        means = [_mean(v) for name, numbers in pairs for _, v in _unit_vectors(opened, name, numbers, array)]
        return np.stack(means)
    parts = []
    for name in names:
        try:
            source = opened.dataset(name)
            parts.append(samples.sample_of(opened, source, array, rows=few, patches=FITTED_PATCHES // len(names)))
        except errors.MissingShard:
            continue
    return tokens.unit(np.concatenate(parts))


def _unit_vectors(opened: Opened, dataset: str, rows: list[int], array: str) -> list[tuple[int, Float32]]:
    """Return (row, unit vectors of its patches); rows that cannot be read are left out."""
    prefix = tokens.shape_of(opened, dataset, array).prefix_tokens
    try:
        batch = tokens.read_uncached(opened, dataset, rows, array)
    except errors.CodistillError:
        if len(rows) == 1:
            return []
        return [pair for row in rows for pair in _unit_vectors(opened, dataset, [row], array)]
    return [(row, tokens.unit(values[prefix:])) for row, values in zip(rows, batch, strict=True)]


def _mean(vectors: Float32) -> Float32:
    """Return the direction of the mean of the stored vectors [N, C]."""
    return tokens.unit(np.nanmean(vectors, axis=0))


def _cosine(vector: Float32, query: Float32) -> float:
    return float(np.clip(vector @ query, -1, 1))
