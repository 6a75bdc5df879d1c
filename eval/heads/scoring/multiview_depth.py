"""Multi-view depth from images to the table.

Published (DUNE D.1, after DUSt3R): pairs of the key view with each other view; depth is the z of its points; several
depths are rescaled and averaged with their confidences. Documented by the robust multi-view depth benchmark: other
views are ordered by how well each alone does (`quasi-optimal`, which looks at the true depth, for every method alike),
the set grows along that order, and the best of all sizes counts; medians are aligned where a method knows no poses.
Our choice: how depths are rescaled (`fused_depth`), and images that are stretched to multiples of the patch, not cut,
so that the depth covers the whole view. Neither poses nor intrinsics are used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.heads.geometry.depth import fused_depth
from eval.heads.pairs.files import Tree
from eval.heads.scoring.depth_samples import DepthSample, list_samples, read_depth
from eval.heads.scoring.images import stretched
from eval.heads.scoring.predictor import Predictor
from eval.heads.scoring.settings import Alignment, DepthSettings
from eval.heads.scoring.units import SCORES, Outcome, ResultFolder, Unit, run_units
from eval.tasks import multiview
from eval.tasks.multiview import DepthScore
from store.common import atomic
from store.errors import InvalidInput

PREDICTIONS = "predictions"
ASPECT_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class DepthScores:
    """What came out.

    Attributes:
        table: set -> `absrel`, `inliers`, `samples`; their mean as `average`.
        outcome: results by sample.
        notes: lines on failures.
    """

    table: dict[str, dict[str, float]]
    outcome: Outcome
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class PairDepth:
    """Depth of the key view from one pair.

    Attributes:
        name: name of the other view.
        depth: float32 (H, W).
        confidence: float32 (H, W).
        alone: absolute relative error of this depth alone, percent.
    """

    name: str
    depth: np.ndarray
    confidence: np.ndarray
    alone: float


def score(
    predictor: Predictor, data: Path, out: Path, *, settings: DepthSettings | None = None, progress: bool = False
) -> DepthScores:
    """Predict and score all samples of a folder.

    Args:
        predictor: the pair model.
        data: folder in the layout of `depth_samples`.
        out: folder for the results; an earlier run in it is continued.
        settings: how.
        progress: show a bar.

    Raises:
        MissingFile: no sample, or some that are not whole.
        InvalidInput: every sample failed.
        Conflict, OutputExists: see `ResultFolder`.
    """
    chosen = DepthSettings() if settings is None else settings
    tree = Tree(data, subject="multi-view depth")
    samples = list_samples(tree)
    options = {"order": chosen.order, "align": chosen.align, "keep": chosen.keep}
    folder = ResultFolder(out, {"benchmark": "multi-view depth", **predictor.describe(), **options})
    units = [_unit(predictor, tree, sample, chosen, out) for sample in samples]
    outcome = run_units(units, folder, noun="sample", progress=progress)
    sets: dict[str, list[DepthScore]] = {}
    for sample in samples:
        result = outcome.results.get(f"{sample.dataset}/{sample.name}")
        if result is not None:
            sets.setdefault(sample.dataset, []).append(DepthScore(absrel=result["absrel"], inliers=result["inliers"]))
    table = multiview.summarise_depth(sets)
    folder.write_json(SCORES, table)
    return DepthScores(table=table, outcome=outcome, notes=outcome.report(out, noun="sample"))


def _unit(predictor: Predictor, tree: Tree, sample: DepthSample, settings: DepthSettings, out: Path) -> Unit:
    files = (sample.key, *sample.sources, sample.depth)
    return Unit(
        name=f"{sample.dataset}/{sample.name}",
        inputs={name: (tree.root / name).stat().st_size for name in files},
        compute=lambda: _result(predictor, tree, sample, settings, out),
    )


def _result(
    predictor: Predictor, tree: Tree, sample: DepthSample, settings: DepthSettings, out: Path
) -> dict[str, Any]:
    """Return the scores of a sample, the views behind them, and those left out with the reason."""
    true = read_depth(tree, sample)
    key = tree.image(sample.key)
    if abs(key.shape[1] * true.shape[0] / (key.shape[0] * true.shape[1]) - 1) > ASPECT_TOLERANCE:
        raise InvalidInput(
            f"{tree.where(sample.key)}: {key.shape[1]}x{key.shape[0]} px, its depth has {true.shape[1]}x"
            f"{true.shape[0]}, another aspect"
        )
    pairs, left_out = _pairwise(predictor, tree, sample, true, align=settings.align)
    if not pairs:
        raise InvalidInput(f"no pair gives a depth; {next(iter(left_out.values()))}")
    ordered = sorted(pairs, key=lambda pair: pair.alone) if settings.order == "quasi-optimal" else pairs
    counts = [len(pairs)] if settings.order == "all" else list(range(1, len(pairs) + 1))
    depths = np.stack([pair.depth for pair in ordered])
    confidences = np.stack([pair.confidence for pair in ordered])
    joined = [fused_depth(depths[:count], confidences[:count]) for count in counts]
    scores = [multiview.score(depth, true, align=settings.align) for depth in joined]
    best = scores.index(multiview.best(scores))
    if settings.keep:
        with atomic.replacing(out / PREDICTIONS / sample.dataset / f"{sample.name}.npz") as partial:
            np.savez_compressed(partial, depth=np.stack(joined).astype(np.float32))
    return {
        "absrel": scores[best].absrel,
        "inliers": scores[best].inliers,
        "views": [pair.name for pair in ordered[: counts[best]]],
        "alone": {pair.name: pair.alone for pair in pairs},
        "left_out": left_out,
    }


def _pairwise(
    predictor: Predictor, tree: Tree, sample: DepthSample, true: np.ndarray, *, align: Alignment
) -> tuple[list[PairDepth], dict[str, str]]:
    """Return the key view's depth from each pair, and why other pairs have none."""
    key = predictor.encode(_image(predictor, tree, sample.key))
    pairs: list[PairDepth] = []
    left_out: dict[str, str] = {}
    for name in sample.sources:
        one, _ = predictor.decode(key, predictor.encode(_image(predictor, tree, name)))
        depth = one["pts3d"][0, ..., 2].float().cpu().numpy()
        confidence = one["conf"][0].float().cpu().numpy()
        broken = int((~np.isfinite(depth)).sum())
        try:
            if broken:
                raise InvalidInput(f"{broken} of {depth.size} predicted depths are not finite")
            alone = multiview.score(fused_depth(depth[None], confidence[None]), true, align=align)
        except InvalidInput as error:
            left_out[name] = f"{name}: {error}"
        else:
            pairs.append(PairDepth(name=name, depth=depth, confidence=confidence, alone=alone.absrel))
    return pairs, left_out


def _image(predictor: Predictor, tree: Tree, name: str) -> np.ndarray:
    return stretched(tree.image(name), long_side=predictor.side_px, patch_size=predictor.pairs.patch_size)
