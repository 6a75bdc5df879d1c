"""Frozen encoders: networks behind one interface, so that students, projections and teachers stand in one table.

Shapes: B images, H W pixels, P prefix tokens (0 or 1), N patches, D channels.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from backbones.images import normalise
from store.common.config import near_miss
from store.errors import InvalidInput
from train.model.distiller import Distiller
from train.model.encoder import Encoder as StudentNetwork
from train.model.encoder import resized_to_grid


class FrozenEncoder(Protocol):
    """A network that turns stored pixels into tokens; teachers of `extract` are of this kind too."""

    @property
    def channels(self) -> int:
        """Width of a token, D."""
        ...

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 (B, H, W, 3) pixels into prefix (B, P, D) and patches (B, N, D), float32.

        N is the patch grid of the cache, whatever the encoder's own patch size.
        """
        ...


class StudentEncoder(nn.Module):
    """A student's encoder as its projectors read it: last block, no registers, by default no final norm.

    Args:
        network: the encoder; put into eval mode.
        cell_px: pixels of a view per cell of the patch grid; an encoder with another patch size gets its images
            resized by the ratio, as in training.
        final_norm: apply the encoder's own final norm.
    """

    def __init__(self, network: StudentNetwork, *, cell_px: int, final_norm: bool = False) -> None:
        super().__init__()
        self.network = network.eval()
        self.cell_px = cell_px
        self.final_norm = final_norm
        self.channels = network.embed_dim

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 (B, H, W, 3) pixels into prefix (B, P, D) and patches (B, N, D), float32."""
        images = resized_to_grid(normalise(pixels), patch_size=self.network.patch_size, cell_px=self.cell_px)
        tokens = self.network(images) if self.final_norm else self.network.forward_tokens(images)[0]
        cls, _, patches = self.network.split(tokens)
        return cls.float(), patches.float()


class ProjectedEncoder(nn.Module):
    """A student's encoder followed by one of its projectors; no final norm on that path, as in training.

    Args:
        distiller: the student with its projectors; put into eval mode.
        teacher: name of the teacher whose projector is applied.

    Raises:
        InvalidInput: the student has no projector of that name.
    """

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
