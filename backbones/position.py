"""Resample learned position embeddings, by the three different rules in use for DINOv2-type models."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from store.errors import InvalidInput

PositionRule = Literal["dune", "hub", "stage"]
RULES: tuple[PositionRule, ...] = get_args(PositionRule)
SCALE_OFFSET = 0.1  # DINOv2 adds it to the grid before dividing, and the sampling positions keep it


def resample_pos_embed(
    pos_embed: Tensor,
    grid: tuple[int, int],
    *,
    rule: PositionRule,
    stored_grid: tuple[int, int] | None = None,
) -> Tensor:
    """Resample a position embedding to another patch grid: bicubic, float32, the CLS row untouched.

    A grid equal to the stored one returns the embedding as it is.

    Args:
        pos_embed: (1, 1 + rows * cols, C); row 0 is the CLS token's.
        grid: (rows, cols) of the result.
        rule: `dune`: by scale factors with +0.1, no antialias (all DINOv2-type models in DUNE, and the public models
            without registers); `hub`: by size, antialias (the public models with registers); `stage`: by size, no
            antialias (DUNE's student between its training resolutions).
        stored_grid: (rows, cols) of `pos_embed`; None means square.

    Returns:
        float32 (1, 1 + rows * cols of `grid`, C).

    Raises:
        InvalidInput: unknown rule, or the stored grid does not fit the embedding.

    Source: facebookresearch/dinov2 and naver/dune; on white noise the rules differ by 2.5 in the final features.
    """
    if rule not in RULES:
        raise InvalidInput(f"position rule {rule!r}: expected one of {', '.join(RULES)}")
    patches = pos_embed.shape[1] - 1
    rows, cols = stored_grid or (round(patches**0.5),) * 2
    if rows * cols != patches:
        raise InvalidInput(
            f"position embedding of {patches} patches: expected a {rows}x{cols} grid of {rows * cols}. "
            "Give the grid that it was stored for"
        )
    if grid == (rows, cols):
        return pos_embed.to(torch.float32)
    table = pos_embed[:, 1:].to(torch.float32).reshape(1, rows, cols, -1).permute(0, 3, 1, 2)
    if rule == "dune":
        scale = ((grid[0] + SCALE_OFFSET) / rows, (grid[1] + SCALE_OFFSET) / cols)
        table = functional.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        table = functional.interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=rule == "hub")
    return torch.cat([pos_embed[:, :1].to(torch.float32), table.flatten(2).transpose(1, 2)], dim=1)
