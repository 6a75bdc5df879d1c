"""Cumulative explained variance (Fig. 4) of patch tokens of teachers and of the student's projections.

One task reads one shard of a dataset and keeps only count, mean and centred second moments of its tokens, in float64.
These merge exactly, so the tasks run in threads or on a Dask cluster. Shapes: N tokens, C channels.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from backbones.device import resolve_device
from backbones.images import normalise
from eval.fidelity.predictors import statistics
from eval.fidelity.scores import PATCH
from store.cache.dataset import Dataset, open_dataset
from store.cache.joined_dataset import parts_of
from store.common.config import near_miss
from store.errors import InvalidInput, MissingName
from store.format.schema import OK, PIXELS
from train.data.mixture import Mixture
from train.objective.targets import MIN_STD
from train.run.headline import DECODED
from train.run.load import Run, load

TEACHER, STUDENT = "teacher", "student"
TOKENS_PER_CHANNEL = 10
MERGED_AT_ONCE = 8
ROWS_AT_ONCE = 16
SHARES = (0.5, 0.9, 0.99)

Parts: TypeAlias = "dict[tuple[str, str], Covariance]"  # (teacher, TEACHER or STUDENT) -> moments of patch tokens


@dataclass(frozen=True, kw_only=True)
class Covariance:
    """Moments of some tokens: count, mean (C,) and sum of centred outer products (C, C), float64."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray) -> "Covariance":
        """Compute the moments of (N, C) tokens, centred before they are multiplied: large means cost no digits."""
        values = np.asarray(tokens, np.float64)
        mean = values.mean(0) if len(values) else np.zeros(values.shape[1])
        centred = values - mean
        return cls(count=len(values), mean=mean, scatter=centred.T @ centred)

    @property
    def enough(self) -> bool:
        """True with at least ten tokens a channel; with fewer, small eigenvalues are noise."""
        return self.count >= TOKENS_PER_CHANNEL * len(self.mean)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Work on one shard.

    Attributes:
        location: location of the cache.
        dataset: name of the dataset.
        shard: number of the shard.
        teachers: names of the teachers to read.
        run: directory of the run whose projections are computed.
        step: step of the run's checkpoint.
    """

    location: str
    dataset: str
    shard: int
    teachers: tuple[str, ...]
    run: str
    step: int


def explained_variance(
    run: Run, mixture: Mixture, *, datasets: Sequence[str], shards: int, scheduler: str = "", progress: bool = False
) -> dict[str, Any]:
    """Compute curves of every dataset and teacher, for the teacher's tokens and the student's projections.

    Args:
        run: run whose projections are computed.
        mixture: rows of the run's caches.
        datasets: names of datasets; none means all held-out ones.
        shards: shards to read of each dataset in each cache, evenly spread; 0 reads all.
        scheduler: address of a Dask scheduler; empty works in threads here.
        progress: show a progress bar.

    Raises:
        MissingName: the run has no such dataset; the available ones are listed.
        InvalidInput: none is named and nothing is held out.

    Returns:
        JSON: dataset -> teacher -> TEACHER | STUDENT -> {"tokens", "enough", "raw", "standardised"}. The name of a
        teacher is followed by `headline.DECODED` where its tokens are stored in a code.
    """
    import dask

    reduced = {
        name: _reduced([task for part in parts for task in _tasks(run, mixture, part, shards=shards)])
        for name, parts in _datasets(mixture, datasets).items()
    }
    with _cluster(scheduler), _progress_bar(progress and not scheduler):
        (merged,) = dask.compute(reduced)
    curves: dict[str, Any] = {}
    for dataset, parts in merged.items():
        for (teacher, owner), moments in sorted(parts.items()):
            curves.setdefault(dataset, {}).setdefault(teacher, {})[owner] = _curves(moments)
    return curves


def moments_of_shard(task: Task) -> Parts:
    """Compute the moments of the patch tokens in one shard; runs on workers."""
    dataset = open_dataset(task.location, task.dataset)
    run = _student(task.run, task.step)
    pixels = dataset.read_shard(PIXELS, task.shard)
    shards = {teacher: dataset.read_shard(teacher, task.shard) for teacher in task.teachers}
    ok = np.logical_and.reduce([shard.status == OK for shard in (pixels, *shards.values())])
    rows = np.flatnonzero(ok)
    # The noise of a code is variance too, so decoded tokens are apart from true ones.
    labels = {name: name + DECODED * (dataset.teacher(name).code is not None) for name in task.teachers}
    parts: list[Parts] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        tokens = _projections(run, pixels.data[part])
        for teacher, shard in shards.items():
            prefix_tokens = run.distiller.teachers[teacher].prefix_tokens
            tokens[teacher, TEACHER] = _held(shard.data[part, prefix_tokens:])
        moments = {key: Covariance.of(values.reshape(-1, values.shape[-1])) for key, values in tokens.items()}
        parts.append({(labels.get(name, name), owner): values for (name, owner), values in moments.items()})
    return merge_parts(parts)


def _held(tokens: np.ndarray) -> np.ndarray:
    """Return the tokens (N, C) of (..., C) that are stored: a code may hold some patches alone, the others are NaN."""
    return np.asarray(tokens[~np.isnan(tokens).any(axis=-1)])


def merge_parts(parts: Sequence[Parts]) -> Parts:
    """Merge moments key by key."""
    keys = {key for part in parts for key in part}
    return {key: merge(part[key] for part in parts if key in part) for key in keys}


def summary_rows(by_dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List for each dataset, teacher and owner how many components hold 50, 90 and 99 % of the variance."""
    return [
        {
            "dataset": dataset,
            "teacher": teacher,
            "owner": owner,
            "channels": len(curves["raw"]),
            "tokens": curves["tokens"],
            "enough": curves["enough"],
            **{
                f"{kind}_{share:g}": components_for(np.array(curves[kind]), share)
                for kind in ("raw", "standardised")
                for share in SHARES
            },
        }
        for dataset, teachers in by_dataset.items()
        for teacher, owners in teachers.items()
        for owner, curves in owners.items()
    ]


def merge(parts: Iterable[Covariance]) -> Covariance:
    """Merge the moments of parts into those of all their tokens.

    Raises:
        ValueError: without parts.
    """
    iterator = iter(parts)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no moments to merge")
    count, mean, scatter = first.count, first.mean, first.scatter.copy()
    for part in iterator:
        total = count + part.count
        if not part.count:
            continue
        shift = part.mean - mean
        scatter += part.scatter + np.outer(shift, shift) * (count * part.count / total)
        mean = mean + shift * (part.count / total)
        count = total
    return Covariance(count=count, mean=mean, scatter=scatter)


def cumulative_explained_variance(covariance: Covariance, *, standardised: bool = False) -> np.ndarray:
    """Compute the share of the variance in the first 1, 2, ..., C principal components.

    Args:
        covariance: moments of the features.
        standardised: divide every channel by its standard deviation first, so that no channel counts for more
            because of its scale; a channel that never varies stays at zero.

    Returns:
        float64 (C,), ascending to 1. All NaN if nothing varies.
    """
    scatter = covariance.scatter
    if standardised:
        scale = np.sqrt(np.diag(scatter))
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        scatter = scatter * inverse[:, None] * inverse[None, :]
    values = np.linalg.eigvalsh(scatter)[::-1].clip(min=0.0)
    total = values.sum()
    if total <= 0:
        return np.full(len(values), np.nan)
    return np.asarray(np.cumsum(values) / total)


def components_for(curve: np.ndarray, share: float) -> int:
    """Count the components that hold `share` of the variance, from a cumulative curve (C,)."""
    return int(np.searchsorted(curve, share - 1e-12)) + 1


def _projections(run: Run, pixels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Predict patch tokens with the student, in the teacher's own units."""
    tokens = {}
    device = next(run.distiller.parameters()).device
    with torch.inference_mode():
        predicted = run.distiller(normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)))
        for teacher, (_, patches) in predicted.items():
            norm = statistics(run.target_norms, (teacher, PATCH))
            tokens[teacher, STUDENT] = (patches * norm.std.clamp(min=MIN_STD) + norm.mean).cpu().numpy()
    return tokens


@cache
def _student(directory: str, step: int) -> Run:
    """Load the student, once on each worker, onto its GPU if it has one."""
    run = load(Path(directory), step=step)
    device = resolve_device("auto")
    run.distiller.to(device)
    run.target_norms.to(device)
    return run


def _datasets(mixture: Mixture, names: Sequence[str]) -> dict[str, list[Dataset]]:
    """Group the datasets of all caches by name; those of one name are analysed as one."""
    sources = mixture.held_out if not names else (*mixture.held_out, *mixture.sources)
    known: dict[str, list[Dataset]] = {}
    for source in sources:
        known.setdefault(source.dataset.name, []).extend(parts_of(source.dataset))
    if not known:
        raise InvalidInput(
            f"nothing is held out. Choose datasets with --datasets; there are: "
            f"{', '.join(source.dataset.name for source in mixture.sources)}"
        )
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MissingName(
            f"--datasets: '{unknown[0]}' is no dataset of this run{near_miss(unknown[0], known)}; available: "
            f"{', '.join(sorted(known))}"
        )
    return {name: known[name] for name in (names or known)}


def _tasks(run: Run, mixture: Mixture, dataset: Dataset, *, shards: int) -> list[Task]:
    teachers = tuple(name for name in mixture.teachers if name in dataset.teachers)
    present = frozenset.intersection(*(dataset.present(array) for array in (PIXELS, *teachers)))
    complete = np.array(sorted(present), dtype=np.int64)
    count = min(len(complete), shards) if shards else len(complete)
    chosen = complete[np.arange(count) * len(complete) // max(count, 1)]
    return [
        Task(
            location=dataset.storage.location,
            dataset=dataset.name,
            shard=int(shard),
            teachers=teachers,
            run=str(run.directory.resolve()),
            step=run.step,
        )
        for shard in chosen
    ]


def _reduced(tasks: Sequence[Task]) -> Any:
    """Build a tree of Dask tasks that ends in the merged parts."""
    import dask

    level = [dask.delayed(moments_of_shard)(task) for task in tasks]
    join = dask.delayed(merge_parts)
    while len(level) > 1:
        level = [join(level[start : start + MERGED_AT_ONCE]) for start in range(0, len(level), MERGED_AT_ONCE)]
    return level[0] if level else {}


def _cluster(scheduler: str) -> Any:
    """Connect to the scheduler, or use threads in this process."""
    import dask

    if not scheduler:
        return dask.config.set(scheduler="threads")
    from distributed import Client

    return Client(scheduler)


def _progress_bar(shown: bool) -> Any:
    if not shown:
        return nullcontext()
    from dask.diagnostics import ProgressBar

    return ProgressBar(out=sys.stderr)


def _curves(moments: Covariance) -> dict[str, Any]:
    return {
        "tokens": moments.count,
        "enough": moments.enough,
        "raw": cumulative_explained_variance(moments).tolist(),
        "standardised": cumulative_explained_variance(moments, standardised=True).tolist(),
    }
