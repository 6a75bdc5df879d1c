"""People of one picture: fit it into the head's square, find people, and bring their pixels back.

Shapes: H W pixels of the picture, S side of the square, P people, J points.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.heads.body.base import BodyModel
from eval.heads.hph import camera
from eval.heads.hph.head import PerceptionHead
from eval.heads.hph.people import People
from eval.heads.hph.samples import square_image, square_intrinsics
from eval.heads.hph.student import FrozenTokens
from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The people of one picture.

    Attributes:
        pixels: uint8 (H, W, 3), the picture.
        people: as the head says, in px of its square; on the CPU.
        intrinsics: float32 (3, 3), camera of the square that the head was given, px.
        assumed_camera: the camera is that of an assumed field of view, so distances are only relative.
        faces: int64 (F, 3), triangles of the meshes; None without a body model.
    """

    pixels: np.ndarray
    people: People
    intrinsics: np.ndarray
    assumed_camera: bool
    faces: np.ndarray | None

    @property
    def img_size(self) -> int:
        """Side of the head's square, px."""
        return camera.CELL_PX * self.people.score_map.shape[1]

    def in_picture(self, points: Tensor) -> np.ndarray:
        """Bring points (..., 2) from px of the square back to px of the picture."""
        height, width = self.pixels.shape[:2]
        fitted = self.img_size / max(width, height)
        margin = np.array([self.img_size - width * fitted, self.img_size - height * fitted]) / 2
        return np.asarray((points.double().numpy() - margin) / fitted)


@torch.no_grad()
def predict(
    pixels: np.ndarray,
    *,
    head: PerceptionHead,
    tokens: FrozenTokens,
    body: BodyModel | None = None,
    intrinsics: np.ndarray | None = None,
    field_of_view_degrees: float | None = None,
    threshold: float = 0.3,
    nms_kernel: int = 3,
) -> Prediction:
    """Find the people of a picture.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        head: head on the device of the encoder.
        tokens: frozen encoder that the head was trained on.
        body: body model on the same device, for meshes; None leaves them out.
        intrinsics: (3, 3), camera of the picture in px.
        field_of_view_degrees: field of view of its longer side, in place of `intrinsics`.
        threshold: least score of a person.
        nms_kernel: window of the detection, in cells.

    Raises:
        InvalidInput: not exactly one of `intrinsics` and `field_of_view_degrees`, pixels of another form, or encoder,
            head and body model that do not fit together.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InvalidInput(f"picture: expected uint8 (height, width, 3), found {pixels.dtype} {pixels.shape}")
    if (intrinsics is None) == (field_of_view_degrees is None):
        raise InvalidInput("camera: expected either intrinsics or a field of view. 60 degrees suit many photographs")
    if body is not None and (body.rotations, body.expression_numbers) != (head.sizes.rotations, head.sizes.expressions):
        raise InvalidInput(
            f"body model {type(body).__name__}: it has {body.rotations} rotations and {body.expression_numbers} "
            f"expression numbers, the head predicts {head.sizes.rotations} and {head.sizes.expressions}. Take the body "
            "model that the head was trained with"
        )
    side = head.sizes.img_size
    if intrinsics is None:
        matrix = _assumed_camera(field_of_view_degrees or 0.0, side)
    else:
        height, width = pixels.shape[:2]
        matrix = square_intrinsics(np.asarray(intrinsics), width=width, height=height, img_size=side)
    square = torch.from_numpy(square_image(pixels, side).copy())[None]
    people = head(
        tokens(square),
        torch.from_numpy(matrix),
        body=body,
        threshold=threshold,
        nms_kernel=nms_kernel,
    )
    return Prediction(
        pixels=pixels,
        people=people.cpu(),
        intrinsics=matrix,
        assumed_camera=intrinsics is None,
        faces=None if body is None else body.faces,
    )


def _assumed_camera(degrees: float, img_size: int) -> np.ndarray:
    if not 0 < degrees < 180:
        raise InvalidInput(f"field of view: expected more than 0 and less than 180 degrees, found {degrees:g}")
    return camera.from_field_of_view(degrees, img_size=img_size).numpy()
