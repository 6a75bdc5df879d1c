"""Random brightness, contrast, saturation and hue of one view."""

from dataclasses import replace

import numpy as np
import torch
from torchvision.transforms import functional

from eval.heads.pairs.views import View

STRENGTH = (0.5, 0.5, 0.5, 0.1)  # brightness, contrast, saturation, hue


def jitter(view: View, rng: np.random.Generator) -> View:
    """Change the colours of a view, in random order, by factors of 1 +- 0.5 (hue: +- 0.1), as ColorJitter does."""
    operations = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    centres = (1.0, 1.0, 1.0, 0.0)
    values = [rng.uniform(centre - width, centre + width) for centre, width in zip(centres, STRENGTH, strict=True)]
    image = torch.from_numpy(np.ascontiguousarray(view.image)).permute(2, 0, 1)
    for number in rng.permutation(len(operations)):
        image = operations[number](image, values[number])
    return replace(view, image=image.permute(1, 2, 0).contiguous().numpy())
