"""Results about a run by name: taken from its directory while they are valid, computed and stored otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from eval.analyses import attention as attention_analysis
from eval.analyses import correlation, pca
from eval.analyses import variance as variance_analysis
from eval.analyses.correlation import Probe
from eval.encoders.open_encoder import OpenEncoder
from eval.fidelity import measure
from eval.runs.open_run import OpenRun
from eval.runs.results import Value, ValueAndTable, digest

FIDELITY, PCA, VARIANCE, CORRELATION, ATTENTION = "fidelity", "pca", "variance", "correlation", "attention"
WINDOWS = 10  # windows that a log is cut into

FactsAndTable: TypeAlias = tuple[Value, pa.Table]


def fidelity(
    opened: OpenRun,
    settings: measure.Settings,
    *,
    peers: Mapping[str, OpenEncoder] | None = None,
    progress: bool = False,
) -> pa.Table:
    """Return the per-image sums of a run, with schema `eval.fidelity.scores.IMAGE_SUMS`.

    Args:
        opened: the run.
        settings: rows to measure and to fit on.
        peers: encoders that are read through a linear map beside the student, by name.
        progress: show progress bars.
    """
    peers = peers or {}
    networks = {name: encoder.network for name, encoder in peers.items()}
    result = opened.results.get_or_compute(
        FIDELITY,
        _fidelity_key(settings, peers),
        lambda: measure.measure(opened.subject(networks), settings, device=opened.device, progress=progress),
    )
    return _with_table(result)[1]


def require_fidelity(
    opened: OpenRun, settings: measure.Settings, *, peers: Mapping[str, OpenEncoder] | None = None
) -> None:
    """Refuse at once a run whose fidelity is neither stored nor can be computed; arguments as for `fidelity`.

    Raises:
        CodistillError: its caches are not there, or what it used of them has changed.
    """
    if opened.results.get(FIDELITY, _fidelity_key(settings, peers or {})) is None:
        _ = opened.mixture


def _fidelity_key(settings: measure.Settings, peers: Mapping[str, OpenEncoder]) -> dict[str, Any]:
    return {**asdict(settings), "peers": {name: dict(encoder.identity) for name, encoder in peers.items()}}


def pictures(opened: OpenRun, *, count: int) -> FactsAndTable:
    """Return PCA pictures of held-out views, with schema `eval.analyses.pca.PICTURES`."""
    result = opened.results.get_or_compute(
        PCA, {"count": count}, lambda: pca.pictures(opened.subject(), device=opened.device, count=count)
    )
    return _with_table(result)


def variance(
    opened: OpenRun, *, datasets: Sequence[str], shards: int, scheduler: str = "", progress: bool = False
) -> Value:
    """Return explained variance curves; arguments and result as `eval.analyses.variance.explained_variance`."""

    def compute() -> tuple[Value, None]:
        curves = variance_analysis.explained_variance(
            opened.run, opened.mixture, datasets=datasets, shards=shards, scheduler=scheduler, progress=progress
        )
        return curves, None

    return opened.results.get_or_compute(VARIANCE, {"datasets": sorted(datasets), "shards": shards}, compute)[0]


def logged_correlation(opened: OpenRun, *, window: int = 0) -> Value:
    """Return the correlation of the logged loss updates, as `eval.analyses.correlation.as_json` gives it.

    Args:
        opened: the run.
        window: logged steps to correlate together; 0 cuts the log into ten windows.
    """
    steps = window or max(2, opened.run.step // WINDOWS)
    return correlation.as_json(correlation.from_log(opened.run, window=steps))


def probed_correlation(opened: OpenRun, probe: Probe, *, progress: bool = False) -> Value:
    """Return the correlation of replayed updates on a probe batch, in one window."""

    def compute() -> tuple[Value, None]:
        updates = correlation.on_probe(
            opened.run, opened.mixture, probe, window=probe.steps, device=opened.device, progress=progress
        )
        return correlation.as_json(updates), None

    return opened.results.get_or_compute(CORRELATION, asdict(probe), compute)[0]


def attention(opened: OpenRun, *, count: int, k: int, images: Sequence[tuple[str, np.ndarray]] = ()) -> FactsAndTable:
    """Return typical attention maps, with schema `eval.analyses.attention.MAPS`.

    Args:
        opened: the run.
        count: held-out views to show.
        k: maps of each network and image.
        images: (caption, uint8 (H, W, 3)) to show instead of held-out views.
    """
    digests = [[caption, digest(pixels.tobytes().hex())] for caption, pixels in images]
    result = opened.results.get_or_compute(
        ATTENTION,
        {"count": count, "k": k, "images": digests},
        lambda: attention_analysis.maps(opened.subject(), device=opened.device, count=count, k=k, images=images),
    )
    return _with_table(result)


def _with_table(result: ValueAndTable) -> FactsAndTable:
    value, table = result
    if table is None:
        raise ValueError("a result that has a table was stored without it")
    return value, table
