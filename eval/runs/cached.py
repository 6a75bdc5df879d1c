"""Every result about a run by name: taken from its directory if it is there and nothing changed, computed if not."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from eval.analyses import attention as attending
from eval.analyses import correlation, pca
from eval.analyses.correlation import Probe
from eval.analyses.variance import explained_variance
from eval.encoders.load import Peers
from eval.fidelity import measure as measuring
from eval.runs.open_run import OpenRun
from eval.runs.results import digest

FIDELITY, PCA, VARIANCE, CORRELATION, ATTENTION = "fidelity", "pca", "variance", "correlation", "attention"
WINDOWS = 10  # windows that a log is cut into

Computed = tuple[dict[str, Any], pa.Table]


def fidelity(
    opened: OpenRun,
    settings: measuring.Settings,
    *,
    peers: Peers | None = None,
    progress: bool = False,
) -> pa.Table:
    """Per-image sums of a run (`eval.summary.IMAGE_SUMS`).

    Args:
        opened: the run.
        settings: how much is looked at.
        peers: foreign encoders that are read through a linear map beside the student.
        progress: show progress bars.
    """
    key = {**asdict(settings), "peers": dict(peers.identities) if peers else {}}
    encoders = peers.encoders if peers else {}
    return _table(
        opened.results.get_or_compute(
            FIDELITY,
            key,
            lambda: measuring.measure(opened.subject(encoders), settings, device=opened.device, progress=progress),
        )
    )[1]


def pictures(opened: OpenRun, *, count: int) -> Computed:
    """PCA pictures (`eval.analyses.pca.PICTURES`)."""
    return _table(
        opened.results.get_or_compute(
            PCA, {"count": count}, lambda: pca.pictures(opened.subject(), device=opened.device, count=count)
        )
    )


def variance(
    opened: OpenRun, *, datasets: Sequence[str], shards: int, scheduler: str = "", progress: bool = False
) -> dict[str, Any]:
    """Explained variance curves; see `eval.analyses.variance_of_cache.explained_variance`."""
    value, _ = opened.results.get_or_compute(
        VARIANCE,
        {"datasets": sorted(datasets), "shards": shards},
        lambda: (
            explained_variance(
                opened.run,
                opened.mixture,
                datasets=datasets,
                shards=shards,
                scheduler=scheduler,
                progress=progress,
            ),
            None,
        ),
    )
    return value


def logged_correlation(opened: OpenRun, *, window: int = 0) -> dict[str, Any]:
    """Correlation of the logged loss updates, as `correlation_of_run.as_json`; 0 makes ten windows of the log."""
    chosen = window or max(2, opened.run.step // WINDOWS)
    return correlation.as_json(correlation.from_log(opened.run, window=chosen))


def probed_correlation(opened: OpenRun, probe: Probe, *, progress: bool = False) -> dict[str, Any]:
    """Correlation of replayed updates on a probe batch, in one window."""
    value, _ = opened.results.get_or_compute(
        CORRELATION,
        asdict(probe),
        lambda: (
            correlation.as_json(
                correlation.on_probe(
                    opened.run,
                    opened.mixture,
                    probe,
                    window=probe.steps,
                    device=opened.device,
                    progress=progress,
                )
            ),
            None,
        ),
    )
    return value


def attention(opened: OpenRun, *, count: int, k: int, images: Sequence[tuple[str, np.ndarray]] = ()) -> Computed:
    """Typical attention maps (`eval.analyses.attention.MAPS`) of held-out views, or of the images given."""
    shown = [[caption, digest(pixels.tobytes().hex())] for caption, pixels in images]
    return _table(
        opened.results.get_or_compute(
            ATTENTION,
            {"count": count, "k": k, "images": shown},
            lambda: attending.maps(opened.subject(), device=opened.device, count=count, k=k, images=images),
        )
    )


def _table(found: tuple[dict[str, Any], pa.Table | None]) -> Computed:
    value, table = found
    if table is None:
        raise ValueError("a result that has a table was stored without it")
    return value, table
