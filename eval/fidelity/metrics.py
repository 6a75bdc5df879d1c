"""Metrics between predicted and target tokens: per-row sums, and scores as ratios of sums.

Shapes: B rows, N tokens, C channels. All in standardised target space (zero is the mean training token, one its
standard deviation), computed in float32 and summed in float64.
"""

import numpy as np
import torch
from torch.nn import functional

SUMS = ("tokens", "cosine", "smooth_l1", "squared_error", "power")
SCORES = ("cosine", "smooth_l1", "explained_variance")


def row_sums(
    prediction: torch.Tensor, target: torch.Tensor, *, direction: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """Sum over the tokens of each row: one, cosine, smooth-L1, squared error, squared target.

    The last three are means over channels before they are summed. Sums, not means, because they add up over rows of
    an image, images of a dataset and bootstrap resamples.

    Args:
        prediction: (B, N, C) predicted tokens.
        target: (B, N, C) target tokens; those that are NaN, which a code does not hold, do not count.
        direction: (C,) vector to take the cosine with instead of `prediction`, or None: a constant predictor is scored
            by its best constant for each metric, and that of the cosine is not that of the squared error.

    Returns:
        `SUMS` -> float64 (B,).
    """
    prediction, target = prediction.float(), target.float()
    pointing = prediction if direction is None else direction.float().expand_as(target)
    difference = prediction - target
    per_token = {
        "tokens": torch.ones(target.shape[:2], device=target.device),
        "cosine": functional.cosine_similarity(pointing, target, dim=-1),
        "smooth_l1": functional.smooth_l1_loss(prediction, target, beta=1.0, reduction="none").mean(-1),
        "squared_error": difference.square().mean(-1),
        "power": target.square().mean(-1),
    }
    held = ~target.isnan().any(dim=-1)
    return {name: value.double().where(held, 0.0).sum(1).cpu().numpy() for name, value in per_token.items()}


def scores(sums: np.ndarray) -> np.ndarray:
    """Compute mean cosine, mean smooth-L1 and explained variance from sums.

    Explained variance is 1 - (squared error) / (squared target): the share of the targets' variation around the
    mean training token that the prediction accounts for. The mean token scores exactly 0, a prediction worse than
    it is negative, a perfect one scores 1.

    Args:
        sums: float64 (..., 5) in the order of `SUMS`.

    Returns:
        float64 (..., 3) in the order of `SCORES`; NaN where there are no tokens or nothing varies.
    """
    tokens, cosine, smooth_l1, squared_error, power = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = 1.0 - squared_error / np.where(power > 0, power, np.nan)
        count = np.where(tokens > 0, tokens, np.nan)
        return np.stack([cosine / count, smooth_l1 / count, explained], axis=-1)
