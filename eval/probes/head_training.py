"""What training heads has in common: the order of items, and learning-rate factors.

A step is counted from 0; every function is pure.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from store.errors import JobFailed


def batches(items: int, *, batch: int, iterations: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of each iteration's batch, int64 (batch,): permutations of all items, one after the other."""
    order = np.empty(0, dtype=np.int64)
    epoch = 0
    for _ in range(iterations):
        while len(order) < batch:
            order = np.concatenate([order, np.random.default_rng([seed, epoch]).permutation(items)])
            epoch += 1
        yield order[:batch]
        order = order[batch:]


def warm_up(step: int, *, steps: int, start: float) -> float:
    """Factor that rises linearly from `start` at step 0 to 1 at step `steps`."""
    return 1.0 if step >= steps else 1.0 - (1.0 - step / steps) * (1.0 - start)


def linear_decay(step: int, *, iterations: int) -> float:
    """Factor that falls linearly from 1 to 0 at the end."""
    return 1.0 - step / iterations


def cosine_decay(step: int, *, iterations: int, end: float) -> float:
    """Factor that falls along half a cosine from 1 to `end` at the end."""
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * step / iterations))


def tail_mean(losses: Sequence[torch.Tensor]) -> float:
    """Mean of the last tenth of the losses; NaN of none.

    Raises:
        JobFailed: a loss that is not finite, so the head is worth nothing.
    """
    if not losses:
        return math.nan
    values = torch.stack([loss.detach() for loss in losses]).double().cpu()
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        raise JobFailed(f"probe: the loss of step {int(bad[0])} is not finite. Pass a smaller --lr")
    return float(values[-max(1, len(values) // 10) :].mean())
