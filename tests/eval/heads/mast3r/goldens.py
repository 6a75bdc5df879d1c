"""Golden numbers of the authors' code, and tiny models to test with."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from backbones.vit import DinoVisionTransformer
from eval.heads.mast3r.dpt import HeadSizes
from eval.heads.mast3r.initialise import from_scratch
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.sizes import PairSizes

GOLDEN = Path(__file__).parents[3] / "golden" / "heads"
PAIR = GOLDEN / "mast3r_pair.safetensors"
PAIR_HEADS = {"enc_num_heads": 2, "dec_num_heads": 2}
TINY = PairSizes(
    enc_embed_dim=16,
    dec_embed_dim=8,
    dec_depth=4,
    dec_num_heads=2,
    head=HeadSizes(layer_dims=(2, 2, 2, 2), feature_dim=4, last_dim=2, desc_dim=3, desc_hidden=8),
)


def read(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def read_json(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def tiny_student(embed_dim: int = 16, patch_size: int = 14) -> DinoVisionTransformer:
    return DinoVisionTransformer(
        embed_dim=embed_dim, depth=1, num_heads=2, patch_size=patch_size, register_tokens=4, pos_grid=(2, 2)
    )


def tiny_pair(seed: int = 0) -> PairModel:
    return from_scratch(tiny_student(), TINY, seed=seed).eval()


def images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
