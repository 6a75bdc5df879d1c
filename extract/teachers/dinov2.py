"""DINOv2 S, B, L and g, with and without registers (Apache-2.0; facebookresearch/dinov2)."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from backbones import dino, state_dicts, weight_files
from backbones.vit import DinoVisionTransformer
from extract.teachers import random_weights
from extract.teachers.base import Teacher
from extract.teachers.options import Request

STATE_NAMES = ("model", "teacher", "state_dict")
REGISTERS = 4  # of the released model that DUNE's teacher is
LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "patch_size": 14, "pos_grid": (37, 37), "layer_scale": 1.0}


class DinoTeacher(Teacher):
    """A DINOv2-type encoder: all tokens after the final norm, registers discarded.

    Args:
        network: loaded encoder.
        request: options it was built from.
        architecture: architecture from `dino.build`.
        keep_cls: keep CLS as the prefix token.
    """

    def __init__(
        self,
        network: DinoVisionTransformer,
        *,
        request: Request,
        architecture: dino.DinoArchitecture,
        keep_cls: bool,
    ) -> None:
        super().__init__(
            network,
            request=request,
            architecture={"name": "dinov2"} | architecture.to_json(),
            patch_size=network.patch_size,
            channels=network.embed_dim,
            prefix_tokens=int(keep_cls),
            position_rule=network.pos_rule,
        )
        self.vit = network
        self._positions: tuple[tuple[int, int], Tensor] | None = None

    def fit(self, size: tuple[int, int]) -> None:
        """Resample the positions, once for each size: on a GPU that takes longer than a block of the network."""
        if self._positions is None or self._positions[0] != size or self._positions[1].device != self.device:
            self._positions = (size, self.vit.positions(self.vit.patch_grid(*size)))

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        positions = self._positions[1] if self._positions else None
        tokens, _ = self.vit.forward_tokens(images, pos_embed=positions)
        cls, _, patches = self.vit.split(self.vit.norm(tokens))
        return cls[:, : self.prefix_tokens], patches


def build(request: Request) -> Teacher:
    """Build a DINOv2 teacher from `dinov2_vit*_pretrain.pth`, or the same tensors in safetensors.

    The public models with registers resample positions by the rule `hub`. Those without registers always follow the
    rule `dune`, and so does everything in DUNE.

    Raises:
        InvalidInput: the file holds another architecture.
    """
    request.refuse("stride")
    if request.random_seed is not None:
        return random_dino(request, register_tokens=REGISTERS, keep_cls=True)
    state = state_dicts.strip_wrappers(
        state_dicts.find(weight_files.load(request.weights), STATE_NAMES, source=request.source)
    )
    has_registers = "register_tokens" in state
    network, architecture = dino.build(
        state,
        num_heads=request.num_heads,
        pos_rule=request.rule if has_registers else "dune",
        source=request.source,
    )
    return DinoTeacher(network, request=request, architecture=architecture, keep_cls=True)


def random_dino(request: Request, *, register_tokens: int, keep_cls: bool) -> DinoTeacher:
    """Build ViT-L/14, the size of DUNE's teachers, with random weights.

    Args:
        request: options with a random seed.
        register_tokens: registers between CLS and patches.
        keep_cls: keep CLS as the prefix token.
    """
    assert request.random_seed is not None
    architecture = dino.DinoArchitecture(
        **LARGE,
        num_heads=request.num_heads or LARGE["embed_dim"] // dino.HEAD_DIM,
        register_tokens=register_tokens,
        qkv_bias=True,
        mlp_hidden=4 * LARGE["embed_dim"],
        swiglu=False,
    )
    with torch.device("meta"):
        network = DinoVisionTransformer(**asdict(architecture), pos_rule=request.rule if register_tokens else "dune")
    random_weights.fill(network, request.random_seed)
    return DinoTeacher(network, request=request, architecture=architecture, keep_cls=keep_cls)
