"""Statistics of a teacher in a dataset: channels from the seal at once; norms and spectrum from a sample, later."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.view import samples
from eval.view.jobs import READY, Progress
from eval.view.opened import Opened
from eval.view.parameters import finite
from store import errors
from store.inspection import token_images

SAMPLED_ROWS, SAMPLED_PATCHES = 256, 8192
BINS = 64
DEAD = 1e-3  # standard deviation below this share of the median channel's
OUTLIER = 5.0  # root mean square above this many times the median channel's

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What a sample of patches says.

    Attributes:
        rows, patches: size of the sample.
        mean, std: float64 [C].
        edges, counts: histogram of norms.
        spectrum: float64 [C], share of the variance by principal component, descending.
    """

    rows: int
    patches: int
    mean: Float64
    std: Float64
    edges: Float64
    counts: npt.NDArray[np.int64]
    spectrum: Float64

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return int(self.mean.nbytes + self.std.nbytes + self.edges.nbytes + self.counts.nbytes + self.spectrum.nbytes)


def statistics_of(opened: Opened, dataset: str, teacher: str) -> dict[str, Any]:
    """Answer `/api/statistics`; `state` is `building` while norms and spectrum are being found.

    Raises:
        errors.MissingName: no such dataset or teacher.
        errors.InvalidInput: the sample cannot be read; the reason is told.
    """
    info = opened.teacher(dataset, teacher)
    job = opened.jobs.start(
        ("statistics", dataset, teacher), lambda progress: _sample(opened, dataset, teacher, progress)
    )
    if job.error:
        raise errors.InvalidInput(job.error)
    sampled: Sampled | None = job.result if job.state == READY else None
    sealed = _sealed(opened, dataset, teacher)
    moments = sealed or (None if sampled is None else (sampled.mean, sampled.std))
    answer: dict[str, Any] = {
        "state": job.state,
        "progress": job.progress,
        "dataset": dataset,
        "teacher": teacher,
        "channels": info.channels,
        "tokens": "patch tokens of all ok rows, as sealed" if sealed else "patch tokens of a sample of rows",
        "std": None,
        "mean": None,
        "dead": [],
        "outliers": [],
        "norms": None,
        "spectrum": None,
        "sample": None,
        "drift": _drift(opened, dataset, teacher),
    }
    if moments is not None:
        mean, std = moments
        answer |= {"mean": _plain(mean), "std": _plain(std)} | _unusual(mean, std)
    if sampled is not None:
        answer |= {
            "norms": {"edges": sampled.edges.tolist(), "counts": sampled.counts.tolist()},
            "spectrum": sampled.spectrum.tolist(),
            "sample": {"rows": sampled.rows, "patches": sampled.patches},
        }
    return answer


def _sample(opened: Opened, dataset: str, teacher: str, progress: Progress) -> tuple[Sampled, int]:
    source = opened.dataset(dataset)
    rows = samples.usable_rows(opened, source, [teacher], count=SAMPLED_ROWS)
    if not len(rows):
        raise samples.none_usable(f"{dataset}/{teacher}")
    patches = samples.sample_patches(
        opened, source, teacher, rows=rows, patches=SAMPLED_PATCHES, progress=lambda done: progress(0.9 * done)
    ).astype(np.float64)
    counts, edges = np.histogram(token_images.norms(patches), bins=BINS)
    centred = patches - patches.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred)[::-1].clip(min=0)
    total = variances.sum()
    sampled = Sampled(
        rows=len(rows),
        patches=len(patches),
        mean=patches.mean(axis=0),
        std=patches.std(axis=0),
        edges=edges,
        counts=counts.astype(np.int64),
        spectrum=variances / total if total > 0 else variances,
    )
    return sampled, sampled.size_bytes


def _sealed(opened: Opened, dataset: str, teacher: str) -> tuple[Float64, Float64] | None:
    try:
        patch = opened.dataset(dataset).statistics(teacher).patch
    except (errors.NotSealed, errors.Damaged):
        return None
    return (patch.mean, patch.std) if patch.count[0] > 0 else None


def _unusual(mean: Float64, std: Float64) -> dict[str, list[int]]:
    """Return channels that hardly vary, and those whose values are far larger than the others'."""
    power = np.sqrt(mean**2 + std**2)
    return {
        "dead": np.flatnonzero(std <= DEAD * np.median(std)).tolist(),
        "outliers": np.flatnonzero(power > OUTLIER * np.median(power)).tolist(),
    }


def _drift(opened: Opened, dataset: str, teacher: str) -> list[dict[str, Any]]:
    """Return how far the same teacher's tokens in other datasets are, farthest first.

    The distance is that of normal distributions with these means and standard deviations (Wasserstein-2), root mean
    square over channels, in standard deviations of this dataset.
    """
    own = _sealed(opened, dataset, teacher)
    if own is None:
        return []
    digest = opened.teacher(dataset, teacher).identity_digest
    mean, std = own
    alive = std > 0
    found = []
    for other, teachers in opened.listing().teachers.items():
        if other == dataset or teacher not in teachers or teachers[teacher].identity_digest != digest:
            continue
        moments = _sealed(opened, other, teacher)
        if moments is not None:
            squared = ((moments[0] - mean)[alive] ** 2 + (moments[1] - std)[alive] ** 2) / std[alive] ** 2
            found.append({"dataset": other, "distance": float(np.sqrt(squared.mean())) if alive.any() else 0.0})
    return sorted(found, key=lambda entry: (-entry["distance"], entry["dataset"]))


def _plain(values: Float64) -> list[float | None]:
    return [finite(value) for value in values.tolist()]
