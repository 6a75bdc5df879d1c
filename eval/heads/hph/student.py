"""Tokens of a frozen encoder for the perception head. Shapes: B images, S side in px, N patches, C channels."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from eval.encoders.open_encoder import OpenEncoder, of_student
from eval.heads.hph.camera import CELL_PX
from eval.heads.mast3r.encoders import open_student
from extract.teachers.base import DTYPES
from store.errors import InvalidInput


class FrozenTokens:
    """A frozen encoder as the head reads it: no gradient, before its final norm unless it was opened with that.

    Args:
        encoder: an encoder with cells of 14 px, for example a student opened with `final_norm=False`.
        tokens: "patches", or its CLS too ("all"); registers are left out.

    Raises:
        InvalidInput: cells of another size, or "all" of an encoder without CLS, found when tokens are asked for.
    """

    def __init__(self, encoder: OpenEncoder, *, tokens: Literal["patches", "all"] = "patches") -> None:
        if encoder.cell_px != CELL_PX:
            raise InvalidInput(
                f"encoder '{encoder.name}': cells of {encoder.cell_px} px, the perception head needs {CELL_PX}"
            )
        self.encoder = encoder
        self.channels = encoder.network.channels
        self._with_cls = tokens == "all"

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encode uint8 (B, S, S, 3) into float32 (B, N, C), or (B, 1 + N, C) with CLS."""
        device = self.encoder.device
        dtype = DTYPES[self.encoder.dtype]
        autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), autocast:
            prefix, patches = self.encoder.network(pixels.to(device))
        if self._with_cls and not prefix.shape[1]:
            raise InvalidInput(f"encoder '{self.encoder.name}' has no CLS token. Take head.tokens 'patches'")
        # Joined outside of inference mode: the result may take part in a backward pass.
        return torch.cat([prefix if self._with_cls else prefix[:, :0], patches], dim=1).float()


def open_frozen(source: Path, *, device: torch.device, blocks: int) -> OpenEncoder:
    """Open a student for the head.

    Args:
        source: run directory, or encoder file in DUNE's layout.
        device: device that it goes to.
        blocks: blocks of the head; without any the student's own final norm is applied.

    Raises:
        MissingFile, InvalidInput: no such student.
    """
    network = open_student(source).network
    return of_student(
        network, name=source.resolve().stem, cell_px=int(network.patch_size), device=device, final_norm=not blocks
    )
