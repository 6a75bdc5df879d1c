"""A strong student in closed form: ridge regression from one teacher's true tokens to another's encoded ones.

From the 3 x 3 neighbourhood of a patch in the largest teacher's tokens, which predict the target far better than a
student of a few hundred steps does, so that what an encoding costs is seen without the scatter of trainings. Over more
and more rows, the loss of cosine is a + b / rows: b is noise, which averages out, a is bias, which stays.

Shapes: R rows, N patches, F features (9 C + 1), C channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import store
from benchmarks.compact.caches import Caches, training
from benchmarks.compact.photographs import TEACHERS
from benchmarks.compact.report import Table
from benchmarks.compact.settings import CODED_TEACHER, ENCODINGS, FIXED_SIGNS, FLOAT16, Record, Results, Settings
from store import Cache, Dataset
from store.format.statistics import merge

ROWS = (400, 1200, 3800)
INPUT = TEACHERS[-1]
PENALTIES = tuple(10.0**power for power in range(-3, 3))  # of features of unit variance, times the number of tokens
CHUNK = 64  # rows
ENCODED = (*ENCODINGS[1:], FIXED_SIGNS)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rows = list[tuple[str, npt.NDArray[np.int64]]]  # datasets and some rows of each
Norms = Mapping[str, tuple[Float32, Float32]]  # mean and standard deviation of a teacher's patches


def strong_student(settings: Settings, results: Results, caches: Caches) -> Record:
    """Return the held-out cosines of ridge regressions on float16 and on every encoding."""
    paths = {encoding: caches.get(settings.size, encoding) for encoding in (FLOAT16, *ENCODED)}

    def compute() -> dict[str, Any]:
        opened = {encoding: store.open(path) for encoding, path in paths.items()}
        norms = norms_of(training(opened[FLOAT16]))
        plan = nested(opened[FLOAT16])
        sums = {encoding: Sums() for encoding in opened}
        cosines: dict[str, list[float]] = {encoding: [] for encoding in opened}
        held_out = [evaluation(dataset, norms) for dataset in opened[FLOAT16] if dataset.split == "val"]
        for rows in plan:
            _add(opened, rows, sums, norms)
            for encoding, found in sums.items():
                cosines[encoding].append(best_cosine(found, held_out))
        counts = np.cumsum([sum(len(numbers) for _, numbers in rows) for rows in plan])
        return {"rows": counts.tolist(), "cosines": cosines}

    return results.once(f"ridge/{settings.size}", "ridge", compute)


def ridge_table(title: str, record: Record) -> Table:
    """Return the cosine lost against float16 with more and more rows, and what would stay with any number."""
    reference = np.array(record["cosines"][FLOAT16])
    rows = [[FLOAT16, *(f"{value:.4f}" for value in reference), ""]]
    for encoding in ENCODED:
        lost = reference - np.array(record["cosines"][encoding])
        floor, _ = floor_of(record["rows"], lost)
        rows.append([encoding, *(f"{value:.4f}" for value in lost), f"{floor:+.4f}"])
    header = ["cosine of fp16, and what is lost of it", *(f"{count} rows" for count in record["rows"]), "floor"]
    return Table(title=title, header=header, rows=rows)


def floor_of(rows: Sequence[int], lost: Float64) -> tuple[float, float]:
    """Return a and b of the least-squares fit of a + b / rows."""
    design = np.stack([np.ones(len(rows)), 1 / np.asarray(rows, np.float64)], axis=1)
    a, b = np.linalg.lstsq(design, lost, rcond=None)[0]
    return float(a), float(b)


def nested(cache: Cache) -> list[Rows]:
    """Return rows to add one after the other, equally many of every training dataset, to have `ROWS` of them."""
    datasets = training(cache)
    order = {
        dataset.name: np.random.default_rng(number).permutation(dataset.valid_rows(TEACHERS))
        for number, dataset in enumerate(datasets)
    }
    available = min(len(rows) for rows in order.values())
    ends = [count // len(datasets) for count in ROWS]
    if ends[-1] > available:
        ends = [available // 4, available // 2, available]
    starts = [0, *ends[:-1]]
    return [
        [(name, np.sort(rows[first:last])) for name, rows in order.items()]
        for first, last in zip(starts, ends, strict=True)
    ]


class Sums:
    """Sums over the tokens of rows: products of features, and of features and targets."""

    def __init__(self) -> None:
        self.tokens = 0
        self.features: Float64 | None = None  # (F, F)
        self.targets: Float64 | None = None  # (F, C)

    def add(self, features: Float32, targets: Float32, gram: Float32 | None) -> None:
        """Add tokens; `gram` is the product of all features, which is taken where no target is left out."""
        stored = np.isfinite(targets[:, 0])
        if gram is None or not stored.all():
            features, targets = features[stored], targets[stored]
            gram = np.asarray(features.T @ features)
        product = features.T @ targets
        self.tokens += len(targets)
        self.features = gram.astype(np.float64) if self.features is None else self.features + gram
        self.targets = product.astype(np.float64) if self.targets is None else self.targets + product


def _add(caches: dict[str, Cache], rows: Rows, sums: dict[str, Sums], norms: Norms) -> None:
    for name, numbers in rows:
        for part in np.split(numbers, range(CHUNK, len(numbers), CHUNK)):
            if not len(part):
                continue
            features = features_of(caches[FLOAT16][name], part, norms)
            gram = np.asarray(features.T @ features)
            for encoding, cache in caches.items():
                sums[encoding].add(features, targets_of(cache[name], part, norms), gram)


def norms_of(datasets: Sequence[Dataset]) -> Norms:
    """Return the statistics of the true patches of all training datasets together."""
    merged = {name: merge([dataset.statistics(name).patch for dataset in datasets]) for name in TEACHERS}
    return {
        name: (moments.mean.astype(np.float32), np.sqrt(moments.var).astype(np.float32))
        for name, moments in merged.items()
    }


def features_of(dataset: Dataset, rows: npt.NDArray[np.int64], norms: Norms) -> Float32:
    """Return the features float32 [R N, F]: standardised tokens of 3 x 3 patches, beyond the edge their mean, and 1."""
    standardised = _standardised(dataset, INPUT, rows, norms)
    down, across = dataset.teacher(INPUT).patch_grid
    grid = np.pad(standardised.reshape(len(rows), down, across, -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [grid[:, y : y + down, x : x + across] for y in range(3) for x in range(3)]
    ones = np.ones((len(rows), down, across, 1), np.float32)
    stacked = np.concatenate([*parts, ones], axis=-1)
    return np.ascontiguousarray(stacked.reshape(len(rows) * down * across, -1))


def targets_of(dataset: Dataset, rows: npt.NDArray[np.int64], norms: Norms) -> Float32:
    """Return the standardised targets float32 [R N, C]; NaN where a patch is not stored."""
    standardised = _standardised(dataset, CODED_TEACHER, rows, norms)
    return standardised.reshape(-1, standardised.shape[-1])


def _standardised(dataset: Dataset, teacher: str, rows: npt.NDArray[np.int64], norms: Norms) -> Float32:
    """Return standardised patches float32 [R, N, C]."""
    mean, std = norms[teacher]
    return np.asarray((dataset.read(rows, [teacher])[teacher].astype(np.float32) - mean) / std)


def evaluation(dataset: Dataset, norms: Norms) -> tuple[Float32, Float32]:
    """Return features and true targets of a held-out dataset."""
    rows = dataset.valid_rows(TEACHERS)
    return features_of(dataset, rows, norms), targets_of(dataset, rows, norms)


def best_cosine(sums: Sums, held_out: Sequence[tuple[Float32, Float32]]) -> float:
    """Return the cosine on held-out tokens, a mean over datasets, with the best penalty."""
    assert sums.features is not None
    assert sums.targets is not None
    values, vectors = np.linalg.eigh(sums.features)
    turned = vectors.T @ sums.targets
    weights = [
        (vectors @ (turned / (values + penalty * sums.tokens)[:, None])).astype(np.float32) for penalty in PENALTIES
    ]
    return max(float(np.mean(list(_cosines(weight, held_out)))) for weight in weights)


def _cosines(weight: Float32, held_out: Sequence[tuple[Float32, Float32]]) -> Iterator[float]:
    for features, targets in held_out:
        predicted = features @ weight
        norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(targets, axis=1)
        yield float(((predicted * targets).sum(axis=1) / np.maximum(norms, 1e-12)).mean())
