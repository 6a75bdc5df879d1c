"""Encoders of a pair: MASt3R's own, or a frozen student with the norm that is trained behind it.

Shapes: B images, H W pixels, N patches, E channels. Source: naver/mast3r; DUNE (Sariyildiz et al., CVPR 2025), App. B.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from eval.heads.mast3r.feature_cache import FeatureCache
from extract.teachers.croco import CrocoEncoder
from store.errors import InvalidInput, MissingFile
from train.model.encoder import Encoder as StudentNetwork
from train.run import dune_checkpoint
from train.run.load import load as load_run

HALF = (0.5, 0.5, 0.5)
STUDENT_NORM_EPS = 1e-5  # PyTorch's default, unlike every other norm here


class PairEncoder(nn.Module):
    """An encoder of single images: uint8 (B, H, W, 3) to patch tokens (B, N, E), row-major.

    Attributes:
        patch_size: in px.
        embed_dim: E.
    """

    patch_size: int
    embed_dim: int


class CrocoPairEncoder(PairEncoder):
    """MASt3R's encoder on pixels of mean and deviation 0.5."""

    def __init__(self, network: CrocoEncoder) -> None:
        super().__init__()
        self.network = network
        self.patch_size = network.patch_size
        self.embed_dim = network.embed_dim

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode uint8 (B, H, W, 3) into patch tokens (B, N, E) after the final norm."""
        tokens: Tensor = self.network(normalise(pixels, mean=HALF, std=HALF))
        return tokens


class StudentPairEncoder(PairEncoder):
    """A student, frozen and always in evaluation mode: its patches after the last block, without its final norm.

    Pixels are normalised with ImageNet's statistics; CLS and registers are dropped.

    Attributes:
        dtype: of autocast, for example bfloat16; float32 means none.
        cache: tokens on disk; None encodes every time.
    """

    dtype = torch.float32
    cache: FeatureCache | None = None

    def __init__(self, network: StudentNetwork) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.patch_size = int(network.patch_size)
        self.embed_dim = int(network.embed_dim)

    def train(self, mode: bool = True) -> "StudentPairEncoder":
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Encode uint8 (B, H, W, 3) into patch tokens (B, N, E), without gradient."""
        return self._encode(pixels) if self.cache is None else self.cache.tokens(pixels, self._encode)

    def _encode(self, pixels: Tensor) -> Tensor:
        normalised = normalise(pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        with torch.autocast(pixels.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            tokens, _ = self.network.forward_tokens(normalised)
        return self.network.split(tokens)[2]


def open_student(source: "str | Path | StudentNetwork", *, num_heads: int | None = None) -> StudentPairEncoder:
    """Open the student of a pair.

    Args:
        source: run directory, file in DUNE's layout, or the network itself.
        num_heads: attention heads of a file's encoder; None means channels / 64.

    Raises:
        MissingFile: no such run or file.
        InvalidInput: something else, or a file of another model.
    """
    if isinstance(source, nn.Module):
        return StudentPairEncoder(source)
    if not isinstance(source, str | Path):
        raise InvalidInput(f"encoder of type {type(source).__name__}: expected a run, a file or a network")
    path = Path(source)
    if not path.exists():
        raise MissingFile(f"encoder '{path}': expected a run or a file in DUNE's layout, found nothing. Check the path")
    network = load_run(path).distiller.encoder if path.is_dir() else _of_file(path, num_heads)
    return StudentPairEncoder(network)


def _of_file(path: Path, num_heads: int | None) -> StudentNetwork:
    return dune_checkpoint.load(path, num_heads=num_heads).encoder
