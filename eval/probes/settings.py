"""Settings of the probes, with the defaults of the published protocols. Imports no torch: they are flags too."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

import tyro

from store.errors import InvalidConfig

Pooling = Literal["cls", "mean", "cls+mean"]
PoolingOrNone = Annotated[
    Pooling | None, tyro.conf.arg(help_behavior_hint="(default: cls if the encoder has a CLS token, else mean)")
]
NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
AT_LEAST_ZERO = (
    "border",
    "scored",
    "seed",
    "crop_seed",
    "warm_up",
    "mean_only",
    "weight_decay",
    "rotation_deg",
    "gamma",
    "brightness",
    "colour",
)


@dataclass(frozen=True, kw_only=True)
class CentreSettings:
    """Preprocessing of images: resize the short side (bicubic), then cut the centre.

    Args:
        resize: short side after resizing, px.
        crop: side of the centre crop, px.
    """

    resize: int = 256
    crop: int = 224


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """Settings of the k-NN probe.

    Args:
        centre: size and crop of images.
        pooling: feature vector of an image: CLS token, mean of the patches, or both.
        neighbours: values of k to report; a k above the number of training images takes all of them.
        temperature: divisor of similarities before the exponential.
    """

    centre: CentreSettings = field(default_factory=CentreSettings)
    pooling: PoolingOrNone = None
    neighbours: tuple[int, ...] = NEIGHBOURS
    temperature: float = TEMPERATURE


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """Settings of the linear classification probe.

    Args:
        centre: size and crop of images.
        pooling: feature vector of an image: CLS token, mean of the patches, or both.
        strengths: inverse L2 strengths (C) to choose from, on standardised features.
        held_out: share of the training set that the strength is chosen on.
        iterations: iterations of L-BFGS, at most.
        seed: seed that selects the held-out part.
    """

    centre: CentreSettings = field(default_factory=CentreSettings)
    pooling: PoolingOrNone = None
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
    held_out: float = 0.2
    iterations: int = 1000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Sizes of training crops and test windows; all lengths in px.

    Args:
        short_side: short side of resized images, before the random factor in training.
        long_cap: largest length of the other side.
        crop: side of a crop and of a window.
        stride: distance from one window to the next.
        min_factor: smallest random factor of the size in training.
        max_factor: largest random factor of the size in training.
        max_share: largest share of labelled pixels that one class may have; otherwise the crop is sampled again.
    """

    short_side: int = 512
    long_cap: int = 2048
    crop: int = 512
    stride: int = 341
    min_factor: float = 0.5
    max_factor: float = 2.0
    max_share: float = 0.75


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """Settings of the segmentation probe; the defaults are DINOv2's (UNIC's: 80,000 iterations of 8 crops).

    Args:
        crops: sizes of crops and windows.
        views: crops of every training image. The original samples a new one at every step (32 of an ADE20K image);
            here the features of all are stored, 2 MB a crop at 768 channels.
        iterations: training steps of the head.
        batch: crops in a step.
        lr: peak learning rate; falls linearly to 0.
        weight_decay: weight decay of AdamW.
        warm_up: share of the iterations in which the learning rate rises from 1e-6 of its peak (1,500 of 40,000).
        crop_seed: seed of the crops; another one extracts other features.
        seed: seed of the head's initialisation and of the order of its batches.
    """

    crops: CropSettings = field(default_factory=CropSettings)
    views: int = 8
    iterations: int = 40_000
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warm_up: float = 1_500 / 40_000
    crop_seed: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DepthCropSettings:
    """Augmentation of training crops; lengths in px, all ranges symmetric about 0 or 1.

    Args:
        border: rows and columns (top, bottom, left, right) that training images are cut to first; all zero: not cut.
        crop_height: height of a training crop.
        crop_width: width of a training crop.
        rotation_deg: largest rotation, with probability 0.5.
        gamma: largest deviation of the exponent from 1.
        brightness: largest deviation of the brightness factor from 1.
        colour: largest deviation of each channel's factor from 1.
    """

    border: tuple[int, int, int, int] = (45, 472, 43, 608)
    crop_height: int = 416
    crop_width: int = 544
    rotation_deg: float = 2.5
    gamma: float = 0.1
    brightness: float = 0.25
    colour: float = 0.1


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """Settings of the depth probe; the defaults are DINOv2's on NYUd.

    Args:
        crops: augmentation of training images.
        views: crops of every training image; the original samples a new one at every step (25 of each image).
        iterations: training steps of the head.
        batch: crops in a step.
        lr: peak learning rate; falls along a cosine to 1e-8 of it.
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        warm_up: share of the iterations in which the learning rate rises from 1e-3 of its peak (12,800 of 38,400).
        mean_only: iterations at the start that use the mean term of the loss alone.
        mirror: average each test prediction with that of the mirrored image.
        scored: (top, bottom, left, right) of test images that is scored, by default Eigen's crop; all zero: everything.
        crop_seed: seed of the crops; another one extracts other features.
        seed: seed of the head's initialisation and of the order of its batches.
    """

    crops: DepthCropSettings = field(default_factory=DepthCropSettings)
    views: int = 4
    iterations: int = 38_400
    batch: int = 16
    lr: float = 1e-4
    weight_decay: float = 0.01
    clip: float = 35.0
    warm_up: float = 12_800 / 38_400
    mean_only: int = 100
    mirror: bool = True
    scored: tuple[int, int, int, int] = (45, 471, 41, 601)
    crop_seed: int = 0
    seed: int = 0


def validate(settings: Any, *, subject: str) -> None:
    """Refuse settings that cannot work, all problems at once.

    Args:
        settings: settings of a probe.
        subject: name of the settings in the message.

    Raises:
        InvalidConfig: a number that must be positive is not, or a window that skips pixels.
    """
    problems = _problems(settings, prefix="")
    if problems:
        raise InvalidConfig(subject, problems)


def _problems(settings: Any, *, prefix: str) -> list[str]:
    problems = []
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        name = f"{prefix}{entry.name}"
        if is_dataclass(value):
            problems += _problems(value, prefix=f"{name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                zero = entry.name in AT_LEAST_ZERO or isinstance(number, bool)
                if number < 0 or (number == 0 and not zero):
                    problems.append(f"{name}: expected {'at least' if zero else 'more than'} 0, found {number}")
    if isinstance(settings, CropSettings) and settings.stride > settings.crop:
        skips = f"{settings.stride} is more than the crop, {settings.crop}, and would skip pixels"
        problems.append(f"{prefix}stride: {skips}")
    if isinstance(settings, CentreSettings) and settings.crop > settings.resize:
        problems.append(f"{prefix}crop: {settings.crop} does not fit into images resized to {settings.resize}")
    return problems
