"""What becomes of tokens on their way into a cache: float16, and a reason for every row that cannot be."""

import math

import torch
from torch import Tensor

FLOAT16_MAX = 65504.0
FLOAT16_OVERFLOW = 65520.0  # from here on rounding gives infinity


def check_tokens(tokens: Tensor) -> tuple[Tensor, list[str | None]]:
    """Round tokens to float16 on their device and say which rows must not be stored.

    One reduction and one copy of B numbers to the host; a bad row does not touch its neighbours.

    Args:
        tokens: float (B, tokens, C).

    Returns:
        float16 tokens of the same shape, and for each row None or the reason why it failed.
    """
    largest = tokens.abs().flatten(1).amax(1).tolist()  # amax hands on a NaN
    return tokens.to(torch.float16), [_reason(value, tokens[row]) for row, value in enumerate(largest)]


def _reason(largest: float, row: Tensor) -> str | None:
    if math.isfinite(largest):
        if largest < FLOAT16_OVERFLOW:
            return None
        return f"teacher output of {largest:.6g} does not fit float16 (at most {FLOAT16_MAX:.0f})"
    bad = int((~torch.isfinite(row)).sum())
    return f"teacher output is not finite in {bad} of {row.numel()} values"
