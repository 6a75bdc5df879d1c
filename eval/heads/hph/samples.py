"""Training images of people: a square image, its camera, and the people in front of it.

Shapes: H W pixels, S side of the input image in px, P people, J rotations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from eval.heads.body import rotations
from eval.heads.body.base import BodyModel
from eval.heads.hph.head import meshes
from eval.heads.hph.targets import Truth, prepare
from store.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its people, near to far.

    Attributes:
        name: name of the image in messages.
        pixels: uint8 (S, S, 3), RGB.
        intrinsics: float32 (3, 3), px.
        rotvec: float32 (P, J, 3), axis times angle in the order of the body model; the root's in camera axes.
        shape: float32 (P, numbers).
        transl: float32 (P, 3), m, added to the points of the body model, as SMPL-X's translation is.
    """

    name: str
    pixels: np.ndarray
    intrinsics: np.ndarray
    rotvec: np.ndarray
    shape: np.ndarray
    transl: np.ndarray


class SampleSet(Protocol):
    """Images with people, by number; the same image every time."""

    def __len__(self) -> int: ...

    def sample(self, index: int, *, img_size: int) -> Sample:
        """Read image `index` at a side of `img_size` px."""
        ...


def square_image(pixels: np.ndarray, img_size: int) -> np.ndarray:
    """Resize an image so that it fits into a square, keeping its aspect, and centre it on black; uint8 RGB.

    Args:
        pixels: (H, W, 3).
        img_size: side of the square in px.

    Source: Pillow's `ImageOps.pad` (bicubic), as naver/multi-hmr.
    """
    return np.asarray(ImageOps.pad(Image.fromarray(pixels), (img_size, img_size)))


def square_intrinsics(intrinsics: np.ndarray, *, width: int, height: int, img_size: int) -> np.ndarray:
    """Return the camera of the image that `square_image` makes, float32 (3, 3).

    The focal lengths are scaled with the longer side, the principal point **per axis**: it lies right only if it was in
    the centre. The released heads were trained so.

    Args:
        intrinsics: (3, 3) in px of the image.
        width: width of the image, px.
        height: height of the image, px.
        img_size: side of the square, px.
    """
    scale = img_size / max(width, height)
    fx, fy = intrinsics[0, 0] * scale, intrinsics[1, 1] * scale
    cx, cy = img_size * intrinsics[0, 2] / width, img_size * intrinsics[1, 2] / height
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float32)


def flipped(sample: Sample, mirrored: Sequence[int]) -> Sample:
    """Mirror an image and its people.

    Args:
        sample: stays as it is.
        mirrored: for each rotation the number of the one on the other side; `BodyModel.mirrored`.

    Returns:
        cx becomes S - cx, x of the translation and y and z of the rotation vectors change sign, sides are exchanged.
    """
    intrinsics, transl = sample.intrinsics.copy(), sample.transl.copy()
    intrinsics[0, 2] = sample.pixels.shape[1] - intrinsics[0, 2]
    transl[:, 0] *= -1
    rotvec = sample.rotvec[:, list(mirrored)] * np.array([1, -1, -1], dtype=np.float32)
    pixels = np.ascontiguousarray(sample.pixels[:, ::-1])
    return replace(sample, pixels=pixels, intrinsics=intrinsics, rotvec=rotvec, transl=transl)


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Images with their true people.

    Attributes:
        pixels: uint8 (B, S, S, 3).
        intrinsics: float32 (B, 3, 3).
        truth: people that have a cell.
    """

    pixels: Tensor
    intrinsics: Tensor
    truth: Truth


@torch.no_grad()
def to_batch(samples: Sequence[Sample], body: BodyModel, *, device: torch.device) -> TrainingBatch:
    """Put samples into a batch and pose their people.

    Raises:
        InvalidInput: images of different sizes, or people of another body model; the image is named.
    """
    sizes = {sample.pixels.shape for sample in samples}
    if len(sizes) != 1:
        raise InvalidInput(f"batch: images of different sizes {sorted(sizes)}")
    for sample in samples:
        if sample.rotvec.shape[1:] != (body.rotations, 3):
            raise InvalidInput(
                f"image '{sample.name}': people of {sample.rotvec.shape[1]} rotations, the body model has "
                f"{body.rotations}. Take the body model of this data set"
            )
    counts = torch.tensor([len(sample.transl) for sample in samples])
    image = torch.repeat_interleave(torch.arange(len(samples)), counts).to(device)
    intrinsics = _stacked([sample.intrinsics for sample in samples], device)
    rotvec, shape, transl = (
        _joined([getattr(sample, name) for sample in samples], device) for name in ("rotvec", "shape", "transl")
    )
    posed = meshes(
        body,
        rotmat=rotations.from_vector(rotvec),
        shape=shape,
        expression=shape.new_zeros(len(shape), body.expression_numbers),
        intrinsics=intrinsics[image],
        shift=transl,
    )
    truth = prepare(
        image=image,
        rotvec=rotvec,
        shape=shape,
        vertices=posed["v3d"],
        joints=posed["j3d"],
        intrinsics=intrinsics,
        img_size=samples[0].pixels.shape[0],
        pelvis=body.pelvis,
        head=body.head,
    )
    return TrainingBatch(
        pixels=_stacked([sample.pixels for sample in samples], device), intrinsics=intrinsics, truth=truth
    )


def _stacked(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)


def _joined(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays)).to(device)
