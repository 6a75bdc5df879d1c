"""Learning rate and momentum over the steps of a run, in float64."""

import math

import numpy as np

from store.errors import InvalidInput
from train.counter import Float64

IMAGENET_IMAGES = 1_281_167  # the "epoch" that budgets are counted in
REFERENCE_BATCH = 256


def iterations(epochs: float, *, batch: int, epoch_images: int = IMAGENET_IMAGES) -> int:
    """Return the number of steps of a budget: images over batch, rounded up, then made even."""
    steps = math.ceil(epochs * epoch_images / batch)
    return steps + steps % 2


def peak_rate(rate: float, *, batch: int) -> float:
    """Scale a learning rate, given per 256 images, to the global batch."""
    return rate * batch / REFERENCE_BATCH


def cosine(*, start: float, end: float, steps: int) -> Float64:
    """Return a half cosine from `start` towards `end`, which it never reaches: point i of n is at pi * i / n."""
    values: Float64 = end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(steps) / max(1, steps)))
    return values


def learning_rate(*, peak: float, steps: int, warmup: float = 0.2, minimum: float = 1e-6) -> Float64:
    """Return the learning rate of every step: linear warm-up, then cosine.

    The warm-up has floor(warmup * steps) points with both ends: step 0 has rate 0 (its update changes nothing), its
    last point is the peak, and the cosine starts at the peak again.

    Args:
        peak: highest rate, already scaled to the batch.
        steps: of the run.
        warmup: fraction of the steps, in [0, 1].
        minimum: what the cosine tends to; not scaled with the batch.

    Returns:
        float64 (steps,).
    """
    if not 0 <= warmup <= 1:
        raise InvalidInput(f"warmup {warmup}: expected a fraction of the steps from 0 to 1")
    rising = int(warmup * steps)
    return np.concatenate([np.linspace(0, peak, rising), cosine(start=peak, end=minimum, steps=steps - rising)])


def ema_momentum(*, steps: int, start: float = 1.0, end: float = 1e-3) -> Float64:
    """Return the momentum of the target statistics at every step: cosine, no warm-up (step 0 overwrites them)."""
    return cosine(start=start, end=end, steps=steps)
