"""CroCo's encoder, which MASt3R and DUSt3R share: timm's modules, with its own attention, whose positions are rotary.

Shapes: B batch, N tokens, D channels, h heads, d channels of a head.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.timm_library import Mlp, PatchEmbed

NORM_EPS = 1e-6
ROPE_BASE = 100.0


def rotary_table(grid: tuple[int, int], head_dim: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the rotations of RoPE100 for a patch grid, in float32 whatever autocast says.

    The first half of a head's channels turns with the row, the second with the column; inside a half of width w,
    channel i pairs with i + w / 2 and turns by position * 100^(-2i / w).

    Args:
        grid: (rows, cols) of the patches; positions are the integers 0..rows-1 and 0..cols-1 at every resolution.
        head_dim: d, a multiple of 4.
        device: device of the table.

    Returns:
        cos and sin of each pair, (rows * cols, d / 2, 2): the row's pairs, then the column's; tokens row-major.
    """
    width = head_dim // 2
    frequency = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    row = torch.arange(grid[0], dtype=torch.float32, device=device).repeat_interleave(grid[1])
    col = torch.arange(grid[1], dtype=torch.float32, device=device).repeat(grid[0])
    angle = torch.cat([row[:, None] * frequency, col[:, None] * frequency], dim=1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def pair_up(projection: Tensor, num_heads: int) -> Tensor:
    """Reorder the outputs of the fused projection so that the two channels of a rotated pair are neighbours.

    Queries and keys are reordered in the same way, so their products stay; values are not changed.

    Args:
        projection: weight (3 D, D) or bias (3 D) of the queries, keys and values.
        num_heads: h.
    """
    channels = len(projection) // 3
    rotated, values = projection[: 2 * channels], projection[2 * channels :]
    return torch.cat([pair_channels(rotated, 2 * num_heads), values])


def pair_channels(projection: Tensor, num_heads: int) -> Tensor:
    """Reorder the outputs of a projection of queries or keys alone; see `pair_up`.

    Args:
        projection: weight (D, ...) or bias (D) whose outputs are `num_heads` heads, one after the other.
        num_heads: heads among the outputs.
    """
    halves = projection.view(num_heads * 2, 2, len(projection) // num_heads // 4, -1)  # (head, axis), member, pair
    return halves.transpose(1, 2).reshape(projection.shape)


def rotate(heads: Tensor, table: Tensor) -> Tensor:
    """Rotate queries and keys, neighbours paired, by a table; rounded once, at the end.

    Computed as complex numbers: one pass over memory, where separate sines and cosines take six.

    Args:
        heads: (B, N, 2, h, d), or one of the two alone (B, N, 1, h, d).
        table: (N, d / 2, 2), or (B, N, d / 2, 2) where grids differ within the batch.
    """
    pairs = heads.float().view(*heads.shape[:-1], -1, 2)
    table = table[..., None, None, :, :]
    if torch.compiler.is_compiling():  # the compiler knows no complex numbers, and fuses these operations
        (first, second), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        rotated = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    return rotated.flatten(-2).to(heads.dtype)


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions on queries and keys."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        batch, count, channels = tokens.shape
        weight, bias = (pair_up(projection, self.num_heads) for projection in (self.qkv.weight, self.qkv.bias))
        qkv = functional.linear(tokens, weight, bias)
        qkv = qkv.view(batch, count, 3, self.num_heads, channels // self.num_heads)
        query, key = rotate(qkv[:, :, :2], table).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, qkv[:, :, 2].transpose(1, 2))
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, channels))
        return projected


class CrocoBlock(nn.Module):
    """Pre-norm transformer block with rotary attention; no LayerScale."""

    def __init__(self, channels: int, num_heads: int, *, mlp_hidden: int) -> None:
        super().__init__()
        norm_layer = partial(nn.LayerNorm, eps=NORM_EPS)
        self.norm1 = norm_layer(channels)
        self.attn = RotaryAttention(channels, num_heads)
        self.norm2 = norm_layer(channels)
        self.mlp = Mlp(channels, mlp_hidden)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), table)
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class CrocoEncoder(nn.Module):
    """Patch embedding, blocks and final norm: no CLS, no registers, no position embedding added.

    Args:
        embed_dim: D.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: pixels per side.
        mlp_hidden: width of the MLP's hidden layer.
    """

    def __init__(self, *, embed_dim: int, depth: int, num_heads: int, patch_size: int, mlp_hidden: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.head_dim = embed_dim // num_heads
        self.patch_embed = PatchEmbed(img_size=None, patch_size=patch_size, embed_dim=embed_dim)
        self.blocks = nn.ModuleList(CrocoBlock(embed_dim, num_heads, mlp_hidden=mlp_hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Return the patch tokens after the final norm; (B, 3, H, W) -> (B, N, D), row-major."""
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        table = rotary_table(grid, self.head_dim, device=images.device)
        # float32 for the residual sum under autocast, which nothing else here would widen; contiguous, because every
        # later sum would keep the convolution's channel-major layout
        tokens = self.patch_embed(images).float().contiguous()
        for block in self.blocks:
            tokens = block(tokens, table)
        normalised: Tensor = self.norm(tokens)
        return normalised
