"""A pair model as the benchmarks use it: each image is encoded once, any two are decoded.

Shapes: H W pixels of a view.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from eval.heads.scoring.images import ModelImage, fitted
from store.errors import InvalidInput

LONG_SIDES_PX = {16: 512, 14: 518}  # of the released models, by their patch

Outputs = dict[str, Tensor]


class Pairs(Protocol):
    """The two halves of a pair model, as `eval.heads.mast3r.PairModel` has them."""

    patch_size: int

    def encode(self, images: np.ndarray) -> Any:
        """Encode uint8 (1, H, W, 3)."""
        ...

    def decode(self, one: Any, two: Any) -> tuple[Outputs, Outputs]:
        """Predict two encoded views, in the frame of the first one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A pair model with the size of its images and its identity.

    Attributes:
        pairs: the model.
        identity: JSON that tells this model from others, such as a digest of its weights.
        long_side: longer side of the images, px; None takes that of the released model with this patch.
    """

    pairs: Pairs
    identity: Mapping[str, Any]
    long_side: int | None = None

    @property
    def side_px(self) -> int:
        """The longer side of the images that the model is given.

        Raises:
            InvalidInput: none was given, and the patch is not that of a released model.
        """
        if self.long_side is not None:
            return self.long_side
        if self.pairs.patch_size not in LONG_SIDES_PX:
            raise InvalidInput(f"patches of {self.pairs.patch_size} px: give the long side of the images")
        return LONG_SIDES_PX[self.pairs.patch_size]

    def describe(self) -> dict[str, Any]:
        """Return JSON of what predictions depend on."""
        return {"model": dict(self.identity), "long_side_px": self.side_px}

    def fit(self, pixels: np.ndarray, intrinsics: np.ndarray | None) -> ModelImage:
        """Return an image as the model takes it; see `fitted`."""
        return fitted(pixels, intrinsics, long_side=self.side_px, patch_size=self.pairs.patch_size)

    def encode(self, pixels: np.ndarray) -> Any:
        """Encode one image, uint8 (H, W, 3)."""
        with torch.inference_mode():
            return self.pairs.encode(pixels[None])

    def decode(self, one: Any, two: Any) -> tuple[Outputs, Outputs]:
        """Predict two encoded images, without gradient; maps have a first axis of length 1."""
        with torch.inference_mode():
            return self.pairs.decode(one, two)


def tensors_digest(module: nn.Module) -> str:
    """Return the sha256 of a model's tensors and their names: equal for equal weights, whatever file they came from."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        total.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        total.update(values.flatten().view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return total.hexdigest()
