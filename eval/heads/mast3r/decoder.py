"""MASt3R's decoder: two streams of tokens, one a view, that read each other at every step.

Shapes: B pairs, N tokens of a view (M of the other), E channels of the encoder, D of the decoder, h heads, d = D / h.
Source: MASt3R, DUSt3R, CroCo (naver).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.timm_library import Mlp
from extract.teachers.croco import NORM_EPS, RotaryAttention, pair_channels, rotate
from store.errors import InvalidInput


class RotaryCrossAttention(nn.Module):
    """Attention of one view's tokens to the other's, each rotated by its own position in its own image."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq = nn.Linear(channels, channels)
        self.projk = nn.Linear(channels, channels)
        self.projv = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, table: Tensor, other: Tensor, other_table: Tensor) -> Tensor:
        query = self._rotated(self.projq, tokens, table)
        key = self._rotated(self.projk, other, other_table)
        value = self.projv(other).view(*other.shape[:2], self.num_heads, -1).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(tokens.shape))
        return projected

    def _rotated(self, layer: nn.Linear, tokens: Tensor, table: Tensor) -> Tensor:
        """Project (B, N, D) to rotated heads (B, h, N, d)."""
        weight, bias = (pair_channels(projection, self.num_heads) for projection in (layer.weight, layer.bias))
        heads = functional.linear(tokens, weight, bias).view(*tokens.shape[:2], 1, self.num_heads, -1)
        return rotate(heads, table)[:, :, 0].transpose(1, 2)


class DecoderBlock(nn.Module):
    """Pre-norm block: self-attention, attention to the other view, MLP; no LayerScale."""

    def __init__(self, channels: int, num_heads: int, *, mlp_hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = RotaryAttention(channels, num_heads)
        self.cross_attn = RotaryCrossAttention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.norm3 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = Mlp(channels, mlp_hidden)
        self.norm_y = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, tokens: Tensor, table: Tensor, other: Tensor, other_table: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of this stream after the block; `other` is (B, M, D), tables are rotations."""
        tokens = tokens + self.attn(self.norm1(tokens), table)
        tokens = tokens + self.cross_attn(self.norm2(tokens), table, self.norm_y(other), other_table)
        mixed: Tensor = tokens + self.mlp(self.norm3(tokens))
        return mixed


class TwoStreamDecoder(nn.Module):
    """Both streams of blocks, under the names of MASt3R's files.

    Args:
        enc_embed_dim: E.
        dec_embed_dim: D.
        depth: blocks of a stream, L.
        num_heads: attention heads, of a multiple of 4 channels.
        mlp_hidden: width of the blocks' MLPs; None means 4 D.

    Raises:
        InvalidInput: heads that do not divide the channels so.
    """

    def __init__(
        self, *, enc_embed_dim: int, dec_embed_dim: int, depth: int, num_heads: int, mlp_hidden: int | None = None
    ) -> None:
        super().__init__()
        if dec_embed_dim % (4 * num_heads):
            raise InvalidInput(
                f"decoder of {dec_embed_dim} channels, {num_heads} heads: expected heads of a multiple of 4 channels. "
                "Pass dec_num_heads"
            )
        self.num_heads = num_heads
        self.head_dim = dec_embed_dim // num_heads
        self.decoder_embed = nn.Linear(enc_embed_dim, dec_embed_dim)
        hidden = mlp_hidden or 4 * dec_embed_dim
        self.dec_blocks = nn.ModuleList(DecoderBlock(dec_embed_dim, num_heads, mlp_hidden=hidden) for _ in range(depth))
        self.dec_blocks2 = nn.ModuleList(
            DecoderBlock(dec_embed_dim, num_heads, mlp_hidden=hidden) for _ in range(depth)
        )
        self.dec_norm = nn.LayerNorm(dec_embed_dim, eps=NORM_EPS)

    @property
    def entries(self) -> tuple[int, int, int, int]:
        """Steps whose tokens the heads read: 0 is the encoder's output, the last that of the last block."""
        depth = len(self.dec_blocks)
        return 0, depth * 2 // 4, depth * 3 // 4, depth

    def decode(
        self, tokens1: Tensor, table1: Tensor, tokens2: Tensor, table2: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Decode both views.

        Every block reads both streams as they were before its step. Only the last entry is normalised, and the first
        is what came in, before `decoder_embed`.

        Args:
            tokens1: the encoder's tokens of view 1, (B, N, E).
            table1: rotations of its positions, (N, d / 2, 2) or (B, N, d / 2, 2).
            tokens2: those of view 2, (B, M, E).
            table2: rotations of its positions.

        Returns:
            For each view the tokens of `entries`: (B, N, E), then three of (B, N, D).
        """
        # float32 for the residual sums, also under autocast
        one, two = self.decoder_embed(tokens1).float(), self.decoder_embed(tokens2).float()
        steps1, steps2 = {0: tokens1}, {0: tokens2}
        for number, (block1, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            one, two = block1(one, table1, two, table2), block2(two, table2, one, table1)
            steps1[number], steps2[number] = one, two
        first, *middle, last = self.entries
        steps1[last], steps2[last] = self.dec_norm(one), self.dec_norm(two)
        kept = (first, *middle, last)
        return [steps1[step] for step in kept], [steps2[step] for step in kept]


def rotations(table: Tensor, transposed: Tensor, portrait: tuple[bool, ...] | None) -> Tensor:
    """Choose the rotations of every pair's view: of the grid as stored, or of the transposed one for portraits.

    Args:
        table: rotations of the stored grid, (N, d / 2, 2).
        transposed: those of the transposed grid.
        portrait: which of the B views are portraits; None means none, and one table for all.
    """
    if portrait is None or not any(portrait):
        return table
    return torch.stack([table, transposed])[torch.tensor(portrait, device=table.device).long()]
