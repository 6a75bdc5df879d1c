"""Encoders under one interface, so that students, peers and teachers stand in one table.

Shapes: B images, H W pixels, P prefix tokens (0 or 1), N patches, D channels.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from backbones.images import normalise
from train.model.encoder import Encoder as StudentNetwork
from train.model.encoder import resized_to_grid


class FrozenEncoder(Protocol):
    """Anything that turns stored pixels into tokens."""

    @property
    def channels(self) -> int:
        """D, the width of a token."""
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
