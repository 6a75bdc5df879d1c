"""Human mesh recovery from images to the table, on data in BEDLAM's layout.

Published (DUNE App. B; naver/multi-hmr): BEDLAM's validation set, every 25th image, squares of the head's size,
detection threshold 0.3 with a window of 3 cells. True people are posed with the same body model; joints are compared in
px of the square. 3DPW is not read: its annotations are pickles, of another body model.

Shapes: P people of an image, K joints, V vertices.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.heads.body import rotations
from eval.heads.body.base import BodyModel
from eval.heads.hph.head import PerceptionHead, meshes
from eval.heads.hph.outputs import scored_arrays
from eval.heads.hph.samples import Sample, SampleSet
from eval.heads.scoring.settings import DetectionSettings
from eval.heads.scoring.units import SCORES, Outcome, ResultFolder, Unit, run_units
from eval.tasks.prediction_files import score_human_meshes
from store.common import atomic
from store.errors import InvalidInput

PREDICTIONS, TRUE = "predictions", "true"
EVALUATION_STEP = 25


@dataclass(frozen=True, kw_only=True)
class PeopleModel:
    """What finds people.

    Attributes:
        head: perception head.
        tokens: images, uint8 (1, S, S, 3), to tokens of the frozen encoder.
        body: body model of the head and of the data, on the head's device.
        identity: JSON that tells this model from others.
    """

    head: PerceptionHead
    tokens: Callable[[Tensor], Tensor]
    body: BodyModel
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PeopleScores:
    """What came out.

    Attributes:
        scores: precision, recall and F1 in percent, PVE and PA-PVE in mm.
        outcome: results by image.
        notes: lines on failures.
    """

    scores: dict[str, float]
    outcome: Outcome
    notes: list[str]


def score(
    model: PeopleModel,
    data: SampleSet,
    out: Path,
    *,
    dataset: Mapping[str, Any],
    settings: DetectionSettings | None = None,
    progress: bool = False,
) -> PeopleScores:
    """Find the people of all images, and compare them with the true ones.

    Args:
        model: head, encoder and body model.
        data: images with their people, such as `Bedlam(root, "validation", every=25)`.
        out: folder for the results; an earlier run in it is continued.
        dataset: JSON that tells this data from other data.
        settings: how people are detected.
        progress: show a bar.

    Raises:
        InvalidInput: head and body model do not fit together, no images, or every image failed.
        Conflict, OutputExists: see `ResultFolder`.
    """
    chosen = DetectionSettings() if settings is None else settings
    _check_body(model)
    described = {**dataset, "images": len(data)}
    folder = ResultFolder(
        out, {"benchmark": "human mesh", "model": dict(model.identity), "data": described, **asdict(chosen)}
    )
    units = [_unit(model, data, number, chosen, out) for number in range(len(data))]
    outcome = run_units(units, folder, noun="image", progress=progress)
    with_results = {f"{name}.npz" for name in outcome.results}
    for file in (out / TRUE).glob("*.npz"):  # written before a failure, or by a longer data set
        if file.name not in with_results:
            file.unlink()
    scores = score_human_meshes(out / PREDICTIONS, out / TRUE)
    folder.write_json(SCORES, scores)
    return PeopleScores(scores=scores, outcome=outcome, notes=outcome.report(out, noun="image"))


def true_arrays(sample: Sample, body: BodyModel, *, device: torch.device | None = None) -> dict[str, np.ndarray]:
    """Return the true people of an image as `codistill eval human-mesh` reads them, with the image in `images`.

    Raises:
        InvalidInput: people of another body model.
    """
    if sample.rotvec.shape[1:] != (body.rotations, 3):
        raise InvalidInput(
            f"image '{sample.name}': people of {sample.rotvec.shape[1]} rotations, the body model has "
            f"{body.rotations}. Take the body model of this data set"
        )
    rotvec, shape, transl = (
        torch.from_numpy(values).to(device) for values in (sample.rotvec, sample.shape, sample.transl)
    )
    people = len(transl)
    intrinsics = torch.from_numpy(sample.intrinsics).to(device)
    with torch.no_grad():
        posed = meshes(
            body,
            rotmat=rotations.from_vector(rotvec),
            shape=shape,
            expression=shape.new_zeros(people, body.expression_numbers),
            intrinsics=intrinsics.expand(people, 3, 3),
            shift=transl,
        )
    joints, pixels, vertices = (posed[name].cpu().numpy() for name in ("j3d", "j2d", "v3d"))
    return {
        "image": np.array([sample.name] * people, dtype=np.str_),
        "joints2d": pixels,
        "vertices": vertices,
        "root": joints[:, body.pelvis],
        "images": np.array([sample.name], dtype=np.str_),
    }


def _unit(model: PeopleModel, data: SampleSet, number: int, settings: DetectionSettings, out: Path) -> Unit:
    name = f"{number:06d}"
    return Unit(name=name, inputs=number, compute=lambda: _result(model, data, number, settings, out, name))


def _result(
    model: PeopleModel, data: SampleSet, number: int, settings: DetectionSettings, out: Path, name: str
) -> dict[str, Any]:
    """Write the people of an image and the true ones; return its name and how many there are."""
    sample = data.sample(number, img_size=model.head.sizes.img_size)
    device = next(model.head.parameters()).device
    with torch.no_grad():
        people = model.head(
            model.tokens(torch.from_numpy(sample.pixels.copy())[None]),
            torch.from_numpy(sample.intrinsics).to(device),
            body=model.body,
            threshold=settings.threshold,
            nms_kernel=settings.nms_kernel,
        )
    found = scored_arrays([(sample.name, people.cpu())], pelvis=model.body.pelvis)
    broken = [key for key in ("joints2d", "vertices", "root") if not np.isfinite(found[key]).all()]
    if broken:
        raise InvalidInput(f"image '{sample.name}': predicted {', '.join(broken)} are not finite")
    true = true_arrays(sample, model.body, device=device)
    for folder, arrays in ((PREDICTIONS, found), (TRUE, true)):
        with atomic.replacing(out / folder / f"{name}.npz") as partial:
            np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    return {"image": sample.name, "predicted": len(people), "true": len(sample.transl)}


def _check_body(model: PeopleModel) -> None:
    sizes, body = model.head.sizes, model.body
    if (body.rotations, body.expression_numbers) != (sizes.rotations, sizes.expressions):
        raise InvalidInput(
            f"body model {type(body).__name__}: it has {body.rotations} rotations and {body.expression_numbers} "
            f"expression numbers, the head predicts {sizes.rotations} and {sizes.expressions}. Take the body model "
            "that the head was trained with"
        )
