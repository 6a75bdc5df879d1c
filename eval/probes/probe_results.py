"""Probe results kept with a run, so that its report shows them and nothing is computed twice.

Results of other encoders (the untrained student, teachers) can be kept with a run too, to be compared with it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runs.results import FOLDER, Results, file_digest
from train.run import checkpoints
from train.run.directory import CHECKPOINTS

KINDS = ("knn", "linear", "segmentation", "depth")
CODE = 1  # raise when a probe of the same settings would come out differently


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One result: which probe, of which encoder on which data with what settings, and its figures."""

    kind: str
    encoder: str
    dataset: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]


def results(run: Path) -> Results:
    """The store of a run's probe results; whatever was computed for other weights of the run doesn't count."""
    steps = checkpoints.saved(run / CHECKPOINTS)
    digest = file_digest(run / CHECKPOINTS / f"step-{steps[-1]:08d}" / checkpoints.MODEL) if steps else None
    return Results(run, {"probes": CODE, "weights": digest})


def every(run: Path) -> list[ProbeResult]:
    """All valid results kept with a run, by probe, dataset and encoder."""
    store = results(run)
    found = []
    for kind in KINDS:
        for path in sorted((run / FOLDER).glob(f"{kind}-*.json")):
            try:
                settings = dict(json.loads(path.read_text(encoding="utf-8"))["key"]["settings"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            stored = store.get(kind, settings)
            if stored is not None:
                names = {key: str(settings.get(key)) for key in ("encoder", "dataset")}
                found.append(ProbeResult(kind=kind, settings=settings, figures=stored[0], **names))
    return sorted(found, key=lambda entry: (KINDS.index(entry.kind), entry.dataset, entry.encoder))
