"""People of picture files, from what a command line names."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from backbones.device import resolve_device
from eval.heads.body.choose import open_body
from eval.heads.hph import files, outputs
from eval.heads.hph.predict import predict
from eval.heads.hph.student import FrozenTokens, open_frozen
from eval.heads.pairs.files import read_picture
from eval.heads.pairs.geometry import camera_matrix


def predict_files(
    images: Sequence[Path],
    *,
    weights: Path,
    student: Path,
    out: Path,
    body: str | None = None,
    intrinsics: tuple[float, float, float, float] | None = None,
    field_of_view_degrees: float = 60.0,
    threshold: float = 0.3,
    nms_kernel: int = 3,
    device: str = "auto",
) -> Iterator[tuple[Path, int]]:
    """Predict pictures one after the other; yields each with the number of its people once its files are written.

    Args:
        images: pictures, of unlike names.
        weights: head.
        student: run or encoder file that it was trained on.
        out: folder of the results.
        body: `anny`, or the path of SMPL-X's .npz file; None leaves meshes out.
        intrinsics: fx, fy, cx, cy of all pictures, px; None assumes the field of view.
        field_of_view_degrees: of the longer side.
        threshold: least score of a person.
        nms_kernel: window of the detection, in cells.
        device: device to compute on.

    Raises:
        CodistillError: something cannot be opened or does not fit together; see `predict`.
    """
    chosen = torch.device(resolve_device(device, option="--device"))
    head = files.load(weights, device=chosen)
    encoder = open_frozen(student, device=chosen, blocks=head.sizes.blocks)
    tokens = FrozenTokens(encoder, tokens=files.tokens_read(weights))
    model = None if body is None else open_body(body, device=chosen)
    for image in images:
        prediction = predict(
            read_picture(image),
            head=head,
            tokens=tokens,
            body=model,
            intrinsics=None if intrinsics is None else camera_matrix(intrinsics),
            field_of_view_degrees=None if intrinsics is not None else field_of_view_degrees,
            threshold=threshold,
            nms_kernel=nms_kernel,
        )
        outputs.write(prediction, out, stem=image.stem)
        yield image, len(prediction.people)
