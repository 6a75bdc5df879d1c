"""The DINOv2-type vision transformer of the teachers and of the student, made of timm's blocks.

Shapes: B batch, H W pixels, N patches, R registers, D channels.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.position import PositionRule, resample_pos_embed
from backbones.timm_library import Block, Mlp, PatchEmbed, SwiGLUPacked
from store.errors import InvalidInput

NORM_EPS = 1e-6
INIT_STD = 0.02
TOKEN_INIT_STD = 1e-6


class DinoVisionTransformer(nn.Module):
    """DINOv2's architecture: CLS, registers without position, LayerScale, any input size.

    Parameters are named as timm names them (`cls_token`, `reg_token`, `pos_embed`, `patch_embed.proj`, `blocks.N`,
    `norm`); `pos_embed` keeps its CLS row. timm's own class is not used because it resamples the position embedding
    by another rule, which changes the features by up to 2.5; its blocks are bit-equal.

    Args:
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        patch_size: pixels per side.
        register_tokens: registers between CLS and patches.
        pos_grid: (rows, cols) that `pos_embed` is stored for.
        layer_scale: initial LayerScale value; None for none.
        pos_rule: rule by which `pos_embed` is resampled to another grid.
        qkv_bias: bias in the query, key and value projection.
        mlp_hidden: width of the first MLP layer's output; None means 4 x embed_dim.
        swiglu: gated SiLU MLP (DINOv2 giant) in place of erf GELU; `mlp_hidden` then counts gate and value together.
        drop_path: stochastic depth rate of the last block, rising linearly from 0.
        norm_eps: epsilon of every LayerNorm.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        patch_size: int = 14,
        register_tokens: int = 0,
        pos_grid: tuple[int, int] = (37, 37),
        layer_scale: float | None = None,
        pos_rule: PositionRule = "dune",
        qkv_bias: bool = True,
        mlp_hidden: int | None = None,
        swiglu: bool = False,
        drop_path: float = 0.0,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise InvalidInput(f"num_heads {num_heads}: does not divide embed_dim {embed_dim}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.patch_size = patch_size
        self.register_tokens = register_tokens
        self.prefix_tokens = 1 + register_tokens
        self.pos_grid = pos_grid
        self.pos_rule: PositionRule = pos_rule
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(img_size=None, patch_size=patch_size, embed_dim=embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.reg_token = nn.Parameter(torch.empty(1, register_tokens, embed_dim)) if register_tokens else None
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + pos_grid[0] * pos_grid[1], embed_dim))
        norm_layer = partial(nn.LayerNorm, eps=norm_eps)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                # Block truncates dim * ratio to an integer; the half keeps rounding from losing a unit
                mlp_ratio=((mlp_hidden or 4 * embed_dim) + 0.5) / embed_dim,
                qkv_bias=qkv_bias,
                init_values=layer_scale,
                drop_path=rate,
                norm_layer=norm_layer,
                mlp_layer=SwiGLUPacked if swiglu else Mlp,
                act_layer=nn.SiLU if swiglu else nn.GELU,
            )
            for rate in rates
        )
        self.norm = norm_layer(embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as DINOv2 does: Linear and positions truncated normal 0.02, CLS and registers almost zero."""
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        nn.init.normal_(self.cls_token, std=TOKEN_INIT_STD)
        if self.reg_token is not None:
            nn.init.normal_(self.reg_token, std=TOKEN_INIT_STD)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def patch_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (rows, cols) of patches for an image size.

        Raises:
            InvalidInput: a side that is no multiple of the patch size.
        """
        rows, cols = height_px // self.patch_size, width_px // self.patch_size
        if not rows or not cols or (rows * self.patch_size, cols * self.patch_size) != (height_px, width_px):
            raise InvalidInput(
                f"image of {height_px}x{width_px} px: expected multiples of the patch size {self.patch_size}"
            )
        return rows, cols

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding of a patch grid; float32 (1, 1 + N, D), CLS's row first."""
        return resample_pos_embed(self.pos_embed, grid, rule=self.pos_rule, stored_grid=self.pos_grid)

    def embed(self, images: Tensor, pos_embed: Tensor | None = None) -> Tensor:
        """Return what enters the first block: CLS, registers, patches.

        Args:
            images: (B, 3, H, W).
            pos_embed: result of `positions` for this grid, for frequent calls with frozen weights; None computes it.

        Returns:
            (B, 1 + R + N, D).
        """
        grid = self.patch_grid(images.shape[-2], images.shape[-1])
        patches = self.patch_embed(images)
        if pos_embed is None:
            pos_embed = self.positions(grid)
        parts = [(self.cls_token + pos_embed[:, :1]).expand(len(images), -1, -1), patches + pos_embed[:, 1:]]
        if self.reg_token is not None:
            parts.insert(1, self.reg_token.expand(len(images), -1, -1))  # registers have no position
        return torch.cat(parts, dim=1)

    def forward_tokens(
        self, images: Tensor, *, taps: Sequence[int] = (), pos_embed: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the tokens after the last block **before** the final norm, and those after each tapped block.

        Args:
            images: normalised float (B, 3, H, W); sides are multiples of the patch size, not necessarily equal.
            taps: block numbers from 0, in the order wanted; the last block may be among them.
            pos_embed: position embedding in place of the stored one; see `embed`.

        Returns:
            (B, 1 + R + N, D) in the order CLS, registers, patches (row-major), and one such tensor per tap.

        Raises:
            InvalidInput: a size that the patch does not divide, or a tap beyond the last block.
        """
        if any(not 0 <= tap < len(self.blocks) for tap in taps):
            raise InvalidInput(f"taps {list(taps)}: expected block numbers from 0 to {len(self.blocks) - 1}")
        tokens = self.embed(images, pos_embed)
        tapped: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if number in taps:
                tapped[number] = tokens
        return tokens, tuple(tapped[tap] for tap in taps)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens after the final norm; (B, 3, H, W) -> (B, 1 + R + N, D)."""
        normalised: Tensor = self.norm(self.forward_tokens(images)[0])
        return normalised

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (B, 1 + R + N, D) into CLS (B, 1, D), registers (B, R, D) and patches (B, N, D)."""
        return tokens[:, :1], tokens[:, 1 : self.prefix_tokens], tokens[:, self.prefix_tokens :]
