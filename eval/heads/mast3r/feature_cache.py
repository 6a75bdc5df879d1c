"""Tokens of a frozen student on disk, so that an ablation of the head does not run the encoder again.

A token file is named by a digest of the student and of the image's pixels, so whatever changes either has another file.
Each image is encoded by itself, found or not: the numbers do not depend on what the folder holds. Shapes: B images, H W
pixels, N tokens, E channels.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from store.common import atomic

NAME = "tokens"
SUFFIX = ".safetensors"


class FeatureCache:
    """A folder of token files that stops growing at a limit; several processes may use it at once.

    Args:
        folder: created when the first file is written.
        student: digest of the student's weights and arithmetic.
        most_bytes: nothing is written beyond, counting what is there at the start and what this process writes.

    Attributes:
        found: images whose tokens were read.
        encoded: images that had to be encoded.
    """

    def __init__(self, folder: Path, *, student: str, most_bytes: int) -> None:
        self.found = self.encoded = 0
        self._folder, self._student = folder, student
        self._room = most_bytes - sum(path.stat().st_size for path in folder.glob(f"*/*{SUFFIX}"))

    def tokens(self, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return tokens (B, N, E) of uint8 (B, H, W, 3), those of `encode` for images that are not there."""
        return torch.cat([self._tokens_of_one(pixels[row : row + 1], encode) for row in range(len(pixels))])

    def _tokens_of_one(self, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        path = self._path(pixels)
        try:
            tokens = load_file(path)[NAME].to(pixels.device)
            self.found += 1
            return tokens
        except (OSError, SafetensorError, KeyError):  # absent, or cut short by a crash of the machine: made again
            tokens = encode(pixels)
        self.encoded += 1
        size = tokens.numel() * tokens.element_size()
        if size <= self._room:
            self._room -= size
            with atomic.replacing(path) as partial:
                save_file({NAME: tokens.detach().cpu().contiguous()}, partial)
        return tokens

    def _path(self, pixels: Tensor) -> Path:
        image = pixels[0].cpu().contiguous().numpy()
        digest = hashlib.blake2b(f"{self._student} {image.shape}".encode(), digest_size=20)
        digest.update(image.data)
        name = digest.hexdigest()
        return self._folder / name[:2] / f"{name[2:]}{SUFFIX}"
