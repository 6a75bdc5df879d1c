"""DINOv2-type state dicts: rename their tensors, read the architecture off their shapes, build the network."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from backbones import state_dicts
from backbones.position import PositionRule
from backbones.vit import DinoVisionTransformer
from store.errors import InvalidInput

HEAD_DIM = 64
CHUNKED = re.compile(r"^blocks\.\d+\.(\d+\..+)$")  # DUNE and UNIC keep their blocks in chunks: blocks.0.N
REQUIRED = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight")


@dataclass(frozen=True, kw_only=True)
class DinoArchitecture:
    """Architecture of a DINOv2-type network. Shapes tell all of it but the number of heads."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    register_tokens: int
    pos_grid: tuple[int, int]
    layer_scale: float | None
    qkv_bias: bool
    mlp_hidden: int
    swiglu: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"layer_scale": self.layer_scale is not None, "pos_grid": list(self.pos_grid)}


def rename(state: Mapping[str, Tensor]) -> state_dicts.State:
    """Rename the tensors of DINOv2, Multi-HMR, DUNE and UNIC encoders to those of `DinoVisionTransformer`.

    `mask_token`, used in pretraining only, is dropped; `blocks.CHUNK.N` becomes `blocks.N`.
    """
    renamed: state_dicts.State = {}
    for name, tensor in state.items():
        if name == "mask_token":
            continue
        short = CHUNKED.sub(r"blocks.\1", name)
        short = short.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.")
        renamed["reg_token" if short == "register_tokens" else short] = tensor
    return renamed


def infer(state: Mapping[str, Tensor], *, num_heads: int | None = None, source: str) -> DinoArchitecture:
    """Read the architecture off a renamed state dict.

    Args:
        state: tensors under the names that `rename` gives.
        num_heads: attention heads; None means channels / 64, as in every released model.
        source: name of the file in error messages.

    Raises:
        InvalidInput: tensors that every such model has are missing, or the heads do not divide the channels.
    """
    missing = [name for name in REQUIRED if name not in state]
    if missing:
        raise InvalidInput(f"{source}: expected tensors {', '.join(missing)}, found groups {state_dicts.groups(state)}")
    fc1, proj = state["blocks.0.mlp.fc1.weight"], state["patch_embed.proj.weight"]
    channels, patches = proj.shape[0], state["pos_embed"].shape[1] - 1
    side = round(patches**0.5)
    if side * side != patches:
        raise InvalidInput(f"{source}: position embedding of {patches} patches: expected a square grid")
    if num_heads is None and channels % HEAD_DIM:
        raise InvalidInput(f"{source}: {channels} channels are no multiple of {HEAD_DIM}. Pass num_heads")
    return DinoArchitecture(
        embed_dim=channels,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_heads=num_heads or channels // HEAD_DIM,
        patch_size=proj.shape[-1],
        register_tokens=state["reg_token"].shape[1] if "reg_token" in state else 0,
        pos_grid=(side, side),
        layer_scale=1.0 if "blocks.0.ls1.gamma" in state else None,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        mlp_hidden=fc1.shape[0],
        swiglu=state["blocks.0.mlp.fc2.weight"].shape[1] * 2 == fc1.shape[0],
    )


def build(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, pos_rule: PositionRule = "dune", source: str
) -> tuple[DinoVisionTransformer, DinoArchitecture]:
    """Build the network of a state dict (in any of the known namings) and load it strictly, on the CPU.

    Raises:
        InvalidInput: the tensors are not those of such a network; see `infer` and `state_dicts.check`.
    """
    renamed = rename(state)
    architecture = infer(renamed, num_heads=num_heads, source=source)
    with torch.device("meta"):
        model = DinoVisionTransformer(**asdict(architecture), pos_rule=pos_rule)
    state_dicts.load_into(model, renamed, source=source)
    return model, architecture
