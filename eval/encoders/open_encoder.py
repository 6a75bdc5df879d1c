"""Opened encoders: a frozen network with its name, its identity, and the pixels and device it works on.

Shapes: B images, H W pixels, N patches, D channels.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from backbones import state_dicts
from eval.encoders.base import FrozenEncoder, ProjectedEncoder, StudentEncoder
from extract.teachers.base import DTYPES
from extract.teachers.loading import load_teacher
from extract.teachers.options import TeacherOptions
from store.errors import InvalidInput
from train.model.distiller import Distiller
from train.model.encoder import Encoder as StudentNetwork

PAD_RGB = (124, 116, 104)  # ImageNet's mean colour: zero after normalisation, to 0.006 standard deviations
FOLLOW_FROM_VIEW = ("input_px", "patch_grid")  # parts of a teacher's identity that the size of the view decides


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """float32 patches (B, N, D), row-major on `grid` = (rows, cols), and CLS (B, D) where the encoder has one."""

    cls: np.ndarray | None
    patches: np.ndarray
    grid: tuple[int, int]

    def pooled(self) -> dict[str, np.ndarray]:
        """Return one vector an image: `cls` where there is one, and `mean`, that of the patches; each (B, D)."""
        mean = {"mean": self.patches.mean(1)}
        return mean if self.cls is None else {"cls": self.cls, **mean}


@dataclass(frozen=True, kw_only=True)
class OpenEncoder:
    """An encoder ready to be evaluated.

    Attributes:
        name: name in tables, messages and names of feature folders.
        identity: JSON of everything that decides its tokens, but the size of the view.
        network: the network itself.
        cell_px: pixels per side of a cell of its patch grid.
        device: device that the network is on.
        dtype: dtype of autocast for students; teachers set their own.
    """

    name: str
    identity: Mapping[str, Any]
    network: FrozenEncoder
    cell_px: int
    device: torch.device
    dtype: str = "float32"

    def __call__(self, pixels: np.ndarray, *, batch: int = 32) -> Tokens:
        """Encode uint8 (B, H, W, 3) images; sides that the cell does not divide are padded first."""
        parts = [
            self._encode(pad_to_cells(pixels[start : start + batch], self.cell_px))
            for start in range(0, len(pixels), batch)
        ]
        prefix = np.concatenate([part[0] for part in parts])
        return Tokens(
            cls=prefix[:, 0] if prefix.shape[1] else None,
            patches=np.concatenate([part[1] for part in parts]),
            grid=self.grid(pixels.shape[1], pixels.shape[2]),
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, cols) of the patches of an image of `height` x `width` px."""
        return -(-height // self.cell_px), -(-width // self.cell_px)

    def _encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dtype = DTYPES[self.dtype]
        autocast = nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype=dtype)
        with torch.inference_mode(), autocast:
            prefix, patches = self.network(torch.from_numpy(pixels).to(self.device))
        return prefix.float().cpu().numpy(), patches.float().cpu().numpy()


def of_student(
    network: StudentNetwork,
    *,
    name: str,
    cell_px: int,
    device: torch.device,
    final_norm: bool = True,
    dtype: str = "float32",
) -> OpenEncoder:
    """Open a student's encoder.

    Args:
        network: encoder with its weights; moved to `device`.
        name: name in tables and messages.
        cell_px: pixels of a view per cell of the patch grid.
        device: device to run on.
        final_norm: apply the encoder's final norm (segmentation, k-NN) or not (depth, linear maps).
        dtype: `float32`, or autocast to `float16` or `bfloat16`.

    Raises:
        InvalidInput: unknown dtype.
    """
    encoder = StudentEncoder(network.to(device), cell_px=cell_px, final_norm=final_norm)
    identity = {**_student_identity(network, network, dtype=dtype), "cell_px": cell_px, "final_norm": final_norm}
    return OpenEncoder(name=name, identity=identity, network=encoder, cell_px=cell_px, device=device, dtype=dtype)


def of_projector(
    distiller: Distiller, teacher: str, *, name: str, device: torch.device, dtype: str = "float32"
) -> OpenEncoder:
    """Open a student's prediction of one teacher's tokens, as for the paper's segmentation with the DINO-v2 projector.

    Args:
        distiller: the student with its projectors; moved to `device`.
        teacher: name of the teacher whose projector is applied.
        name: name of the student in tables and messages.
        device: device to run on.
        dtype: `float32`, or autocast to `float16` or `bfloat16`.

    Raises:
        InvalidInput: the student has no such projector, or unknown dtype.
    """
    projected = ProjectedEncoder(distiller.to(device), teacher)
    identity = {
        **_student_identity(distiller, distiller.encoder, dtype=dtype),
        "cell_px": distiller.cell_px,
        "projector": teacher,
    }
    return OpenEncoder(
        name=f"{name}-{teacher}",
        identity=identity,
        network=projected,
        cell_px=distiller.cell_px,
        device=device,
        dtype=dtype,
    )


def of_teacher(options: TeacherOptions, *, name: str, cell_px: int, device: torch.device) -> OpenEncoder:
    """Open a teacher, or any other model that `extract.teachers` loads, with its own norms and dtype.

    Args:
        options: the model, its weights and its compute options.
        name: name in tables and messages.
        cell_px: pixels of a view per cell of the patch grid.
        device: device to run on.
    """
    teacher = load_teacher(options, device=device, student_patch=cell_px)
    identity = {key: value for key, value in teacher.identity(cell_px).items() if key not in FOLLOW_FROM_VIEW}
    return OpenEncoder(name=name, identity=identity, network=teacher, cell_px=cell_px, device=device)


def pad_to_cells(pixels: np.ndarray, cell_px: int) -> np.ndarray:
    """Pad uint8 (B, H, W, 3) with the mean colour to whole cells, evenly on both sides, an odd pixel right or below."""
    bottom, right = -pixels.shape[1] % cell_px, -pixels.shape[2] % cell_px
    if not bottom and not right:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape[1:3]
    padded = np.empty((len(pixels), height + bottom, width + right, 3), dtype=np.uint8)
    padded[...] = PAD_RGB
    padded[:, bottom // 2 : bottom // 2 + height, right // 2 : right // 2 + width] = pixels
    return padded


def _student_identity(module: nn.Module, network: StudentNetwork, *, dtype: str) -> dict[str, Any]:
    """Return JSON of what decides the tokens of a student: the weights of `module` and the shape of its encoder."""
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype '{dtype}': expected one of {', '.join(DTYPES)}")
    return {
        "architecture": type(network).__name__,
        "weights_sha256": state_dicts.fingerprint(module.state_dict()),
        "patch_size": network.patch_size,
        "num_heads": network.num_heads,
        "pos_grid": list(network.pos_grid),
        "compute_dtype": dtype,
    }
