"""A pair of picture files, from what a command line names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from backbones import weight_files
from eval.heads.geometry.solvers import SolverName
from eval.heads.mast3r import outputs
from eval.heads.mast3r.predict import PairPrediction, predict
from eval.heads.mast3r.read import constructor_of, load
from eval.heads.pairs.files import read_picture
from eval.heads.pairs.geometry import camera_matrix

CameraNumbers = tuple[float, float, float, float]  # fx, fy, cx, cy in px


def predict_files(
    pictures: tuple[Path, Path],
    *,
    weights: Path,
    out: Path,
    student: Path | None = None,
    intrinsics: tuple[CameraNumbers | None, CameraNumbers | None] = (None, None),
    long_side: int | None = None,
    method: Literal["pnp", "essential"] = "pnp",
    library: SolverName = "opencv",
    subsample: int = 8,
    least_confidence: float = 1.0,
    device: str = "auto",
) -> PairPrediction:
    """Predict two pictures and write the files that `outputs.write` names.

    Args:
        pictures: the two files.
        weights: file of the head.
        out: folder of the results.
        student: run or encoder file that the head was trained on; None for MASt3R's own files.
        intrinsics: cameras, px of the pictures; None estimates one.
        long_side: longer side that pictures are resized to, px; None takes that of the head's training.
        method: how the pose is found.
        library: whose solver finds it.
        subsample: distance of the pixels that matching starts from, px.
        least_confidence: points of less confidence are left out of the clouds.
        device: device to compute on.

    Raises:
        CodistillError: something cannot be opened or does not fit together; see `load` and `predict`.
    """
    one, two = (read_picture(path) for path in pictures)
    first, second = (None if numbers is None else camera_matrix(numbers) for numbers in intrinsics)
    model = load(weights, encoder=student, device=device)
    prediction = predict(
        model,
        (one, two),
        intrinsics=(first, second),
        long_side=long_side or trained_side(weights, patch_size=model.patch_size),
        method=method,
        library=library,
        subsample=subsample,
    )
    outputs.write(prediction, out, least_confidence=least_confidence)
    return prediction


def trained_side(weights: Path, *, patch_size: int) -> int | None:
    """Return the longer side of images that a file's constructor states, px; None if none that fits the patch."""
    arguments: Mapping[str, Any] = constructor_of(weight_files.load(weights), source=f"weights '{weights}'") or {}
    size = arguments.get("img_size")
    sides = size if isinstance(size, tuple | list) else (size,)
    known = all(type(side) is int and side > 0 and side % patch_size == 0 for side in sides)
    return max(sides) if sides and known else None
