"""Probe results stored with a run, so that its report shows them and none is computed twice.

Results of other encoders (the untrained student, teachers) can be stored with a run too, to be compared with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runs.results import Results, file_digest
from train.run import checkpoints
from train.run.output import CHECKPOINTS

TITLES = {
    "knn": "k-nearest-neighbour classification",
    "linear": "Linear classification",
    "segmentation": "Linear segmentation",
    "depth": "Linear depth",
}
KINDS = tuple(TITLES)
CODE = 1  # raise when a probe of the same settings would come out differently


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Figures of one probe of one encoder on one dataset.

    Attributes:
        kind: one of `KINDS`.
        encoder: name of the encoder.
        dataset: name of the dataset.
        settings: JSON that the figures depend on: digests of encoder and dataset, settings of the probe.
        figures: name -> figure.
    """

    kind: str
    encoder: str
    dataset: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]


def results_of(run: Path) -> Results:
    """Return the store of a run's probe results; results for other weights of the run do not count."""
    steps = checkpoints.saved(run / CHECKPOINTS)
    digest = file_digest(run / CHECKPOINTS / f"step-{steps[-1]:08d}" / checkpoints.MODEL) if steps else None
    return Results(run, {"probes": CODE, "weights": digest})


def all_results(run: Path) -> list[ProbeResult]:
    """Return all valid probe results of a run, ordered by probe, dataset and encoder."""
    stored = results_of(run)
    results = [
        ProbeResult(
            kind=kind,
            encoder=str(settings.get("encoder")),
            dataset=str(settings.get("dataset")),
            settings=settings,
            figures=figures,
        )
        for kind in KINDS
        for settings, figures, _ in stored.all_of(kind)
    ]
    return sorted(results, key=lambda result: (KINDS.index(result.kind), result.dataset, result.encoder))
