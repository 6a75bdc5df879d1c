"""Multi-view pose from images to the table.

Published (DUNE D.1, D.2): 10 random frames of a sequence and all 45 pairs; matches of the pair model give an essential
matrix, and that the relative pose. Not published: which intrinsics, which order within a pair, settings of the search,
seed. Our choice: intrinsics of the dataset, or those of the predicted points (`camera`); each pair once, the earlier
frame first; the settings of `essential_pose`; frames drawn by a generator of (seed, category, sequence), and recorded.
A pair without an estimate has the greatest errors: 180 degrees of rotation, 90 of direction.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eval.heads.pairs.files import Tree
from eval.heads.scoring.pose_sequences import PosedImage, PosedSequence, co3d_sequences, realestate_sequences
from eval.heads.scoring.predictor import Predictor
from eval.heads.scoring.relative_poses import EncodedView, encoded, relative_pose
from eval.heads.scoring.settings import ESSENTIAL, PoseSettings
from eval.heads.scoring.units import SCORES, Outcome, ResultFolder, Unit, run_units
from eval.tasks import multiview
from eval.tasks.multiview import PairErrors
from store.common.stateless_random import key
from store.errors import InvalidInput

Dataset = Literal["co3d", "realestate10k"]
LAYOUTS: dict[Dataset, Callable[[Tree], list[PosedSequence]]] = {
    "co3d": co3d_sequences,
    "realestate10k": realestate_sequences,
}
WORST_ROTATION_DEG, WORST_DIRECTION_DEG = 180.0, 90.0


@dataclass(frozen=True, kw_only=True)
class PoseScores:
    """What came out.

    Attributes:
        table: category -> `rra_15`, `rta_15`, `maa_30` in percent; their mean as `average`.
        outcome: results by sequence.
        notes: lines on pairs without an estimate and on failures.
    """

    table: dict[str, dict[str, float]]
    outcome: Outcome
    notes: list[str]


def score(
    predictor: Predictor,
    data: Path,
    out: Path,
    *,
    dataset: Dataset,
    frames: int = 10,
    seed: int = 0,
    settings: PoseSettings = ESSENTIAL,
    progress: bool = False,
) -> PoseScores:
    """Estimate and score the relative poses of all pairs of frames.

    Args:
        predictor: the pair model.
        data: root of the dataset; see `pose_sequences`.
        out: folder for the results; an earlier run in it is continued.
        dataset: which layout.
        frames: frames drawn of each sequence.
        seed: decides which.
        settings: how poses are made.
        progress: show a bar.

    Raises:
        MissingFile: no sequence.
        InvalidInput: fewer than two frames, or every sequence failed.
        Conflict, OutputExists: see `ResultFolder`.
        MissingExtra: the solver is not installed.
    """
    if frames < 2:
        raise InvalidInput(f"frames {frames}: expected at least 2")
    tree = Tree(data, subject=dataset)
    sequences = LAYOUTS[dataset](tree)
    folder = ResultFolder(
        out,
        {
            "benchmark": f"multi-view pose, {dataset}",
            "frames": frames,
            "seed": seed,
            **predictor.describe(),
            "pose": asdict(settings),
        },
    )
    units = [_unit(predictor, tree, sequence, frames, seed, settings) for sequence in sequences]
    outcome = run_units(units, folder, noun="sequence", progress=progress)
    errors: dict[str, list[PairErrors]] = {}
    for sequence in sequences:
        result = outcome.results.get(f"{sequence.category}/{sequence.name}")
        if result is not None:
            errors.setdefault(sequence.category, []).append(_errors(result))
    table = multiview.summarise_pose({name: multiview.pool(parts) for name, parts in errors.items()})
    folder.write_json(SCORES, table)
    return PoseScores(table=table, outcome=outcome, notes=_failed_pairs(outcome) + outcome.report(out, noun="sequence"))


def drawn(sequence: PosedSequence, count: int, seed: int) -> list[PosedImage]:
    """Draw frames of a sequence without repetition, in order of time; a function of the arguments alone.

    Raises:
        InvalidInput: it has fewer frames.
    """
    if len(sequence.frames) < count:
        raise InvalidInput(f"{len(sequence.frames)} frames, {count} are to be drawn")
    rng = np.random.default_rng(key("multi-view pose", seed, sequence.category, sequence.name))
    return [sequence.frames[place] for place in sorted(rng.choice(len(sequence.frames), count, replace=False))]


def _unit(
    predictor: Predictor, tree: Tree, sequence: PosedSequence, count: int, seed: int, settings: PoseSettings
) -> Unit:
    return Unit(
        name=f"{sequence.category}/{sequence.name}",
        inputs=[[frame.image, frame.pose.tolist()] for frame in sequence.frames],
        compute=lambda: _result(predictor, tree, drawn(sequence, count, seed), settings),
    )


def _result(predictor: Predictor, tree: Tree, frames: list[PosedImage], settings: PoseSettings) -> dict[str, Any]:
    """Return the frames, and for each pair its places, errors in degrees, matches behind it, and why it failed."""
    views = [_view(predictor, tree, frame) for frame in frames]
    pairs = []
    for first, second in combinations(range(len(frames)), 2):
        estimate = relative_pose(predictor, views[first], views[second], settings, metric=False)
        rotation_deg, direction_deg = WORST_ROTATION_DEG, WORST_DIRECTION_DEG
        if not estimate.failure:
            errors = multiview.pair_errors(
                np.stack([np.eye(4), estimate.matrix]), np.stack([frames[first].pose, frames[second].pose])
            )
            rotation_deg, direction_deg = float(errors.rotation_deg[0]), float(errors.translation_deg[0])
        pairs.append(
            {
                "frames": [first, second],
                "rotation_deg": rotation_deg,
                "translation_deg": direction_deg,
                "inliers": int(estimate.inliers.sum()),
                "failure": estimate.failure,
            }
        )
    return {"frames": [frame.image for frame in frames], "pairs": pairs}


def _view(predictor: Predictor, tree: Tree, frame: PosedImage) -> EncodedView:
    pixels = tree.image(frame.image)
    return encoded(predictor, pixels, frame.intrinsics(pixels))


def _errors(result: dict[str, Any]) -> PairErrors:
    return PairErrors(
        rotation_deg=np.array([pair["rotation_deg"] for pair in result["pairs"]]),
        translation_deg=np.array([pair["translation_deg"] for pair in result["pairs"]]),
    )


def _failed_pairs(outcome: Outcome) -> list[str]:
    reasons = [
        f"{name} {pair['frames']}: {pair['failure']}"
        for name, result in outcome.results.items()
        for pair in result["pairs"]
        if pair["failure"]
    ]
    return [f"{len(reasons)} pairs without an estimate count with the greatest errors; {reasons[0]}"] if reasons else []
