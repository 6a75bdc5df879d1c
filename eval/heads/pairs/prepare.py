"""A pair of views made ready for training: cut to the batch's resolution, colours changed.

A function of the pair, the resolution and the generator. The recipe is MASt3R's: four random crops of each view, of
which the two with most in common are taken, colour jitter independent in the views, and in one of 200 pairs the first
view twice. That its two crops then differ is our choice.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from eval.heads.pairs.colour import jitter
from eval.heads.pairs.crops import crop_pair
from eval.heads.pairs.resize import Size, cover, oriented_size
from eval.heads.pairs.views import Pair
from store.common.constraints import AtLeast

MONOCULAR = 0.005


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for each pair.

    Attributes:
        crops: random crops around a turned principal point; else the centre of the image.
        colours: random brightness, contrast, saturation and hue.
        monocular: share of pairs whose second view is a copy of the first.
    """

    crops: bool = True
    colours: bool = True
    monocular: Annotated[float, AtLeast(0)] = MONOCULAR


PLAIN = Augmentation(crops=False, colours=False, monocular=0)


def prepare(pair: Pair, resolution: Size, rng: np.random.Generator, augmentation: Augmentation) -> Pair:
    """Return a pair cut to a resolution; a portrait gets the same resolution upright.

    Args:
        pair: two views.
        resolution: (width, height), the longer side first.
        rng: decides everything that is random.
        augmentation: what is random.
    """
    if rng.random() < augmentation.monocular:
        pair = pair[0], replace(pair[0], instance=f"{pair[0].instance} again")
    sizes = oriented_size(resolution, pair[0].size, rng), oriented_size(resolution, pair[1].size, rng)
    cut = crop_pair(pair, sizes, rng) if augmentation.crops else _centres(pair, sizes)
    return (jitter(cut[0], rng), jitter(cut[1], rng)) if augmentation.colours else cut


def _centres(pair: Pair, sizes: tuple[Size, Size]) -> Pair:
    return cover(pair[0], sizes[0]), cover(pair[1], sizes[1])
