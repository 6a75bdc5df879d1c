"""Projectors: networks that predict one teacher's tokens from the student's; dropped after training.

Shapes: B images, N patches, P prefix tokens of the teacher (0 or 1), D student channels, C teacher channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn

from backbones.timm_library import Block
from backbones.vit import INIT_STD, NORM_EPS
from store.errors import InvalidInput
from train.recipe.config import Projector


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Sizes of an encoder that its projectors depend on."""

    embed_dim: int
    depth: int
    num_heads: int
    has_cls: bool


class TransformerProjector(nn.Module):
    """DUNE's projector: blocks that attend over CLS and patches, then a Linear; no norm between or after.

    Weights start at PyTorch's defaults, unlike the encoder's.
    """

    def __init__(self, config: Projector, *, encoder: EncoderShape, prefix_tokens: int, channels: int) -> None:
        super().__init__()
        self.taps: tuple[int, ...] = (encoder.depth - 1,)
        self.cls_tokens = int(encoder.has_cls)
        self.prefix_tokens = prefix_tokens
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
        self.linear = nn.Linear(encoder.embed_dim, channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict a teacher's tokens.

        Args:
            features: one tensor (B, 1 + N, D) per tap, CLS first, no registers.

        Returns:
            (B, P, C) and (B, N, C).
        """
        tokens = self.blocks(features[0])
        if not self.prefix_tokens:  # the teacher has no CLS token to compare a prediction with
            patches: Tensor = self.linear(tokens[:, self.cls_tokens :])
            return patches[:, :0], patches
        prefix, patches = self.linear(tokens).split([self.prefix_tokens, tokens.shape[1] - self.prefix_tokens], dim=1)
        return prefix, patches


class LadderProjector(nn.Module):
    """UNIC's ladder: per token type one MLP on the un-normalised output of each tapped block, summed."""

    def __init__(self, config: Projector, *, encoder: EncoderShape, prefix_tokens: int, channels: int) -> None:
        super().__init__()
        last = encoder.depth - 1
        self.taps = _rungs(config, depth=encoder.depth)
        self.cls_tokens = int(encoder.has_cls)
        self.channels = channels
        kinds = ("cls", "patch") if prefix_tokens else ("patch",)
        self.heads = nn.ModuleDict(
            {
                kind: nn.ModuleDict(
                    {
                        str(tap): _mlp(
                            encoder.embed_dim,
                            config.last_hidden_dim if tap == last else config.hidden_dim,
                            channels,
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
        patches = self._sum_of_rungs("patch", [tokens[:, self.cls_tokens :] for tokens in features])
        if "cls" not in self.heads:
            return patches[:, :0], patches
        return self._sum_of_rungs("cls", [tokens[:, : self.cls_tokens] for tokens in features]), patches

    def _sum_of_rungs(self, kind: str, features: Sequence[Tensor]) -> Tensor:
        rungs = self.heads[kind].children()
        outputs = (rung(tokens) for rung, tokens in zip(rungs, features, strict=True))
        total: Tensor = reduce(torch.add, outputs)  # one at a time: a stack of them would hold a batch per rung
        return total


ProjectorModule = TransformerProjector | LadderProjector


def build_projector(config: Projector, *, encoder: EncoderShape, prefix_tokens: int, channels: int) -> ProjectorModule:
    """Build one teacher's projector with fresh weights from torch's global random state.

    Args:
        config: section `projector` of the recipe.
        encoder: sizes of the student's encoder.
        prefix_tokens: 1 if the teacher has a CLS token, 0 if it has patches alone.
        channels: width C of the teacher's tokens.

    Raises:
        InvalidInput: a teacher with more prefix tokens than the student can predict, or blocks that do not exist.
    """
    if prefix_tokens > int(encoder.has_cls):
        raise InvalidInput(
            f"teacher with {prefix_tokens} prefix tokens: the student predicts at most {int(encoder.has_cls)} "
            "(its CLS token). Cache this teacher with fewer, or choose a student with a CLS token"
        )
    kind = TransformerProjector if config.kind == "tp" else LadderProjector
    return kind(config, encoder=encoder, prefix_tokens=prefix_tokens, channels=channels)


def _rungs(config: Projector, *, depth: int) -> tuple[int, ...]:
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
