"""Projectors: what turns the student's tokens into predictions of one teacher's; dropped after training.

Shapes: B images, N patches, P prefix tokens of the teacher (0 or 1), D student channels, C teacher channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from backbones.vit import INIT_STD, NORM_EPS
from store.errors import InvalidInput
from train.objective.targets import TeacherSpec


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """How student tokens become a teacher's; the same for every teacher, each with its own weights.

    Args:
        kind: `tp` transformer blocks and a Linear on the last output (DUNE); `lp` ladder of MLPs on intermediate
            blocks, summed (UNIC); `sp` one MLP per token type on the last output (a ladder of one rung).
        blocks: number of transformer blocks (tp).
        layer_scale: initial LayerScale value of those blocks (tp); None for none.
        which_blocks: encoder blocks that have a rung, from 0 (lp); None means all. The paper takes every third.
        hidden_dim: hidden width of a rung (lp).
        last_hidden_dim: hidden width of the rung on the last block (lp, sp).
        prenorm: LayerNorm before the first Linear of a rung (lp, sp).
        midnorm: LayerNorm before the GELU of a rung (lp, sp).
    """

    kind: Literal["tp", "lp", "sp"] = "tp"
    blocks: int = 1
    layer_scale: float | None = 1e-4
    which_blocks: tuple[int, ...] | None = None
    hidden_dim: int = 768
    last_hidden_dim: int = 3072
    prenorm: bool = False
    midnorm: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """What a projector needs to know of its encoder."""

    embed_dim: int
    depth: int
    num_heads: int
    has_cls: bool


class TransformerProjector(nn.Module):
    """DUNE's projector: blocks that attend over CLS and patches, then a Linear; no norm between or after.

    Weights start at PyTorch's defaults, unlike the encoder's.
    """

    def __init__(self, config: ProjectorConfig, *, encoder: EncoderShape, teacher: TeacherSpec) -> None:
        super().__init__()
        self.taps: tuple[int, ...] = (encoder.depth - 1,)
        self.cls_tokens = int(encoder.has_cls)
        self.prefix_tokens = teacher.prefix_tokens
        self.blocks = nn.Sequential(
            *(
                Block(
                    encoder.embed_dim,
                    encoder.num_heads,
                    mlp_ratio=4,
                    qkv_bias=True,
                    init_values=config.layer_scale,
                    norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
                )
                for _ in range(config.blocks)
            )
        )
        self.linear = nn.Linear(encoder.embed_dim, teacher.channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict a teacher's tokens.

        Args:
            features: one tensor (B, 1 + N, D) per tap, CLS first, no registers.

        Returns:
            (B, P, C) and (B, N, C).
        """
        tokens = self.blocks(features[0])
        if not self.prefix_tokens:  # the teacher has no CLS, so nobody would look at its prediction
            patches: Tensor = self.linear(tokens[:, self.cls_tokens :])
            return patches[:, :0], patches
        prefix, patches = self.linear(tokens).split([self.prefix_tokens, tokens.shape[1] - self.prefix_tokens], dim=1)
        return prefix, patches


class LadderProjector(nn.Module):
    """UNIC's ladder: per token type one MLP on the un-normalised output of each tapped block, summed."""

    def __init__(self, config: ProjectorConfig, *, encoder: EncoderShape, teacher: TeacherSpec) -> None:
        super().__init__()
        last = encoder.depth - 1
        self.taps = _rungs(config, depth=encoder.depth)
        self.cls_tokens = int(encoder.has_cls)
        self.channels = teacher.channels
        kinds = ("cls", "patch") if teacher.prefix_tokens else ("patch",)
        self.heads = nn.ModuleDict(
            {
                kind: nn.ModuleDict(
                    {
                        str(tap): _mlp(
                            encoder.embed_dim,
                            config.last_hidden_dim if tap == last else config.hidden_dim,
                            teacher.channels,
                            prenorm=config.prenorm,
                            midnorm=config.midnorm,
                        )
                        for tap in self.taps
                    }
                )
                for kind in kinds
            }
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict a teacher's tokens; arguments and returns as `TransformerProjector.forward`."""
        patches = self._climb("patch", [tokens[:, self.cls_tokens :] for tokens in features])
        if "cls" not in self.heads:
            return patches[:, :0], patches
        return self._climb("cls", [tokens[:, : self.cls_tokens] for tokens in features]), patches

    def _climb(self, kind: str, features: Sequence[Tensor]) -> Tensor:
        rungs = self.heads[kind].children()
        outputs = (rung(tokens) for rung, tokens in zip(rungs, features, strict=True))
        climbed: Tensor = reduce(torch.add, outputs)  # one at a time: a stack of them would hold a batch per rung
        return climbed


Projector = TransformerProjector | LadderProjector


def build_projector(config: ProjectorConfig, *, encoder: EncoderShape, teacher: TeacherSpec) -> Projector:
    """Build one teacher's projector with fresh weights from torch's global random state.

    Raises:
        InvalidInput: a teacher with more prefix tokens than the student can predict, or blocks that do not exist.
    """
    if teacher.prefix_tokens > int(encoder.has_cls):
        raise InvalidInput(
            f"teacher with {teacher.prefix_tokens} prefix tokens: the student predicts at most {int(encoder.has_cls)} "
            "(its CLS token). Cache this teacher with fewer, or choose a student with a CLS token"
        )
    if config.kind == "tp":
        return TransformerProjector(config, encoder=encoder, teacher=teacher)
    return LadderProjector(config, encoder=encoder, teacher=teacher)


def _rungs(config: ProjectorConfig, *, depth: int) -> tuple[int, ...]:
    if config.kind == "sp":
        return (depth - 1,)
    rungs = tuple(range(depth)) if config.which_blocks is None else tuple(sorted(set(config.which_blocks)))
    if not rungs or rungs[0] < 0 or rungs[-1] != depth - 1:
        raise InvalidInput(
            f"which_blocks {list(rungs)}: expected block numbers from 0 that end with the last one, {depth - 1}; "
            "blocks after the last rung would not be trained"
        )
    return rungs


def _mlp(width: int, hidden: int, out: int, *, prenorm: bool, midnorm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LayerNorm(width)] if prenorm else []  # eps 1e-5 here, unlike everywhere else
    layers += [
        nn.Linear(width, hidden),
        *([nn.LayerNorm(hidden)] if midnorm else []),
        nn.GELU(),
        nn.Linear(hidden, out),
    ]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
