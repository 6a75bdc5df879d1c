"""Transformer blocks between a frozen student and the perception head, as in DUNE (appendix B).

The paper says that there are two, and nothing of their form. Ours are the student's blocks (pre-norm with
epsilon 1e-6, MLP of four times the width, exact GELU, LayerScale 1e-4) with 12 attention heads, over all tokens of the
student or its patches alone, then a LayerNorm, since the encoder's own final norm is not applied.
"""

from functools import partial

from torch import Tensor, nn

from backbones.timm_library import Block
from backbones.vit import INIT_STD, NORM_EPS

LAYER_SCALE = 1e-4


class PrependedBlocks(nn.Module):
    """Blocks over a student's tokens, and a LayerNorm.

    Args:
        embed_dim: channels of a token, C.
        blocks: number of blocks.
        num_heads: attention heads of a block.
    """

    def __init__(self, embed_dim: int, *, blocks: int, num_heads: int) -> None:
        super().__init__()
        norm_layer = partial(nn.LayerNorm, eps=NORM_EPS)
        self.blocks = nn.Sequential(
            *(
                Block(embed_dim, num_heads, mlp_ratio=4, qkv_bias=True, init_values=LAYER_SCALE, norm_layer=norm_layer)
                for _ in range(blocks)
            )
        )
        self.norm = norm_layer(embed_dim)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, *, patches: int) -> Tensor:
        """Process tokens.

        Args:
            tokens: (B, P + N, C), CLS and registers first, or patches alone.
            patches: number of patches, N.

        Returns:
            (B, N, C), patches.
        """
        out: Tensor = self.norm(self.blocks(tokens)[:, -patches:])
        return out
