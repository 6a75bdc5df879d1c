"""The encoders that probes look at: a run's student, trained or not, a DUNE checkpoint, or a teacher.

Shapes: B images, H W pixels, N patches, D channels.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones import state_dicts
from backbones.images import normalise
from eval.encoders.base import FrozenEncoder, StudentEncoder
from extract.teachers.base import DTYPES
from store.common.config import near_miss
from store.errors import InvalidInput
from train.model.distiller import Distiller
from train.model.encoder import Encoder as StudentNetwork


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """float32 patches (B, N, D), row-major on `grid` = (rows, cols), and CLS (B, D) where the encoder has one."""

    cls: np.ndarray | None
    patches: np.ndarray
    grid: tuple[int, int]

    def pooled(self) -> dict[str, np.ndarray]:
        """One vector an image: `cls` where there is one, and `mean`, that of the patches; each (B, D)."""
        mean = {"mean": self.patches.mean(1)}
        return mean if self.cls is None else {"cls": self.cls, **mean}


@dataclass(frozen=True, kw_only=True)
class ProbedEncoder:
    """An encoder with what its features depend on.

    Attributes:
        name: for people; names folders of features.
        identity: JSON, everything that decides its tokens.
        network: the encoder itself.
        cell_px: pixels per side of a cell of its patch grid.
        device: where it runs.
        dtype: autocast's, for students; a teacher brings its own.
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
        """(rows, cols) of the patches of an image of that size."""
        return -(-height // self.cell_px), -(-width // self.cell_px)

    def _encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dtype = DTYPES[self.dtype]
        lower = nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype=dtype)
        with torch.inference_mode(), lower:
            prefix, patches = self.network(torch.from_numpy(pixels).to(self.device))
        return prefix.float().cpu().numpy(), patches.float().cpu().numpy()


class ProjectedEncoder(nn.Module):
    """A student's encoder followed by one of its projectors; no final norm on that path, as in training."""

    def __init__(self, distiller: Distiller, teacher: str) -> None:
        super().__init__()
        if teacher not in distiller.teachers:
            known = ", ".join(distiller.teachers)
            hint = near_miss(teacher, distiller.teachers)
            raise InvalidInput(f"projector '{teacher}': this student has {known}{hint}")
        self.distiller = distiller.eval()
        self.teacher = teacher
        self.channels = distiller.teachers[teacher].channels

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the teacher's standardised prefix (B, P, C) and patches (B, N, C) from uint8 (B, H, W, 3)."""
        features = self.distiller.features(normalise(pixels))
        taps = self.distiller.taps_of[self.teacher]
        prefix, patches = self.distiller.projectors[self.teacher]([features[tap] for tap in taps])
        return prefix.float(), patches.float()


def of_student(
    network: StudentNetwork,
    *,
    name: str,
    cell_px: int,
    device: torch.device,
    final_norm: bool = True,
    dtype: str = "float32",
) -> ProbedEncoder:
    """A student's encoder.

    Args:
        network: its weights; moved to `device`.
        name: for people.
        cell_px: pixels of a view per cell of the patch grid it was trained on.
        device: where it runs.
        final_norm: apply the encoder's final norm (segmentation, k-NN) or not (depth).
        dtype: `float32`, or autocast to `float16` or `bfloat16`.
    """
    encoder = StudentEncoder(network.to(device), cell_px=cell_px, final_norm=final_norm)
    identity = {**_student_identity(network, network, dtype=dtype), "cell_px": cell_px, "final_norm": final_norm}
    return ProbedEncoder(name=name, identity=identity, network=encoder, cell_px=cell_px, device=device, dtype=dtype)


def of_projector(
    distiller: Distiller, teacher: str, *, name: str, device: torch.device, dtype: str = "float32"
) -> ProbedEncoder:
    """A student's prediction of one teacher's tokens: the paper's segmentation rows with the DINO-v2 projector.

    Raises:
        InvalidInput: the student has no such projector, or unknown dtype.
    """
    projected = ProjectedEncoder(distiller.to(device), teacher)
    identity = {
        **_student_identity(distiller, distiller.encoder, dtype=dtype),
        "cell_px": distiller.cell_px,
        "projector": teacher,
    }
    return ProbedEncoder(
        name=f"{name}-{teacher}",
        identity=identity,
        network=projected,
        cell_px=distiller.cell_px,
        device=device,
        dtype=dtype,
    )


def of_teacher(
    model: str,
    weights: Path,
    *,
    device: torch.device,
    dtype: str = "float32",
    stride: int | None = None,
    cell_px: int = 14,
) -> ProbedEncoder:
    """A teacher, or any other model that `extract.teachers` loads, on a grid of `cell_px`; its own norms as they are.

    Args:
        model: as in a catalogue.
        weights: local file.
        device: where it runs.
        dtype: compute dtype.
        stride: the stage of a hierarchical or convolutional model.
        cell_px: pixels per cell of the patch grid: the student's patch size.
    """
    from extract import teachers

    teacher = teachers.load(model, weights=weights, device=device, dtype=dtype, stride=stride, student_patch=cell_px)
    sized = ("input_px", "patch_grid")  # these follow from the size of the view, which the features' key holds
    identity = {k: v for k, v in teacher.identity(cell_px).items() if k not in sized}
    name = model.rpartition(":")[2]
    return ProbedEncoder(name=name, identity=identity, network=teacher, cell_px=cell_px, device=device)


def pad_to_cells(pixels: np.ndarray, cell_px: int) -> np.ndarray:
    """Pad uint8 (B, H, W, 3) with the mean colour to whole cells, evenly on both sides, an odd pixel right or below.

    The mean colour is zero after ImageNet normalisation, to 0.006 standard deviations.
    """
    bottom, right = -pixels.shape[1] % cell_px, -pixels.shape[2] % cell_px
    if not bottom and not right:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape[1:3]
    padded = np.empty((len(pixels), height + bottom, width + right, 3), dtype=np.uint8)
    padded[...] = PAD_RGB
    padded[:, bottom // 2 : bottom // 2 + height, right // 2 : right // 2 + width] = pixels
    return padded


def _student_identity(module: nn.Module, network: StudentNetwork, *, dtype: str) -> dict[str, Any]:
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


PAD_RGB = (124, 116, 104)  # ImageNet's mean colour: zero after normalisation, to 0.006 standard deviations
