"""Recipes of trainings of MASt3R's decoder on a frozen student; imports no torch."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from eval.heads.recipes.base import HeadRecipe
from train.recipe.config import (
    Checkpoint,
    Count,
    DecayRate,
    Few,
    FewOrNone,
    Images,
    NotNegativeFloat,
    PositiveFloat,
    Section,
    Share,
    Steps,
    Width,
)

PUBLISHED_WARMUP = 8 / 50  # MASt3R: 8 of 50 epochs
PUBLISHED_BATCH = 64  # pairs
DUNE_PAIRS = 6_500_000

Resolution = tuple[Width, Width]


class DecoderConfig(Section):
    """Sizes of decoder and heads from scratch, as released; those of `--init` are the file's.

    Attributes:
        dim: channels of the decoder.
        depth: blocks of each stream.
        heads: attention heads of a block.
        dpt_dims: channels of the DPT's four maps, finest first.
        dpt_features: channels of its fused maps.
        dpt_last: channels before its last layer.
        desc_dim: channels of a descriptor.
    """

    dim: Width = 768
    depth: Few = 12
    heads: Few = 12
    dpt_dims: tuple[Width, Width, Width, Width] = (96, 192, 384, 768)
    dpt_features: Width = 256
    dpt_last: Width = 128
    desc_dim: Width = 24


class LossConfig(Section):
    """The published criterion; the defaults are those of the released model.

    Attributes:
        alpha: weight of the reward for confidence of points.
        sky: loss of pixels of the sky; 0 leaves them out.
        max_metric_scale: metric pairs with a true point this far away, m, count as not metric; None for none.
        matches: pixel pairs of the matching loss for each pair of images.
        matching: weight of the matching loss.
        matching_alpha: weight of its reward for confidence.
        temperature: temperature of its softmax.
    """

    alpha: PositiveFloat = 0.2
    sky: NotNegativeFloat = 2.0
    max_metric_scale: PositiveFloat | None = None
    matches: Count = 8192
    matching: NotNegativeFloat = 0.075
    matching_alpha: PositiveFloat = 10.0
    temperature: PositiveFloat = 0.05


class OptimConfig(Section):
    """AdamW and its learning rates, set every step: linear from 0, then half a cosine.

    Attributes:
        lr: highest learning rate.
        minimum_lr: learning rate at the end.
        warmup: share of the steps that rise.
        weight_decay: of tensors of two or more dimensions that are no biases.
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        eps: added to the root of the second moment.
    """

    lr: PositiveFloat = 1e-4
    minimum_lr: NotNegativeFloat = 1e-6
    warmup: Share = PUBLISHED_WARMUP
    weight_decay: NotNegativeFloat = 0.05
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.95
    eps: PositiveFloat = 1e-8


class AugmentConfig(Section):
    """What is random in a pair.

    Attributes:
        crops: random crops around a turned principal point; else the centre of the image.
        colours: random brightness, contrast, saturation and hue.
        monocular: share of pairs whose second view is a copy of the first.
    """

    crops: bool = True
    colours: bool = True
    monocular: Share = 0.005


class Mast3rRecipe(HeadRecipe):
    """A training of MASt3R's decoder and heads on a frozen student.

    A step takes `batch` pairs in parts of `part` pairs, each in both orders. The loss of a part is the mean over its
    own pixels and matches, the gradient the mean over the parts, so ranks may share the parts.

    Attributes:
        kind: tells such a run from others.
        seed: seed of the first weights, of the order of pairs and of all that is drawn for them.
        steps: optimizer steps.
        checkpoint: saving.
        resolutions: (width, height) in px, one of which is drawn for each step; multiples of the student's patch.
        batch: pairs of a step.
        part: pairs that are computed at once, a divisor of `batch`.
        encoder_precision: arithmetic of the frozen student: "fp32", or autocast to "bf16".
        tf32: let float32 products of a GPU round to TF32, as in the published training.
        decoder: sizes of decoder and heads from scratch.
        loss: weights of the losses.
        optim: optimizer and learning rates.
        augment: what is random in a pair.
        workers: processes that read pairs; 0 reads them in the process that trains.
        features: folder that keeps the student's tokens for other trainings on the same images; needs pairs without
            random crops and colours. Empty encodes every image in every step.
        features_gb: GB at which that folder stops growing.
    """

    TITLE: ClassVar[str] = "training of MASt3R's decoder"
    FREE: ClassVar[tuple[str, ...]] = ("checkpoint", "workers", "features", "features_gb")

    kind: Literal["mast3r"] = "mast3r"
    steps: Steps = DUNE_PAIRS // PUBLISHED_BATCH
    resolutions: Annotated[tuple[Resolution, ...], Field(min_length=1)] = tuple(
        (518, height) for height in (518, 392, 336, 294, 252, 168)
    )
    batch: Images = PUBLISHED_BATCH
    part: Images = 4
    encoder_precision: Literal["fp32", "bf16"] = "bf16"
    tf32: bool = True
    decoder: DecoderConfig = DecoderConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    workers: Annotated[FewOrNone, Field(le=256)] = 8
    features: str = ""
    features_gb: NotNegativeFloat = 50.0

    @property
    def parts(self) -> int:
        """Parts of a step."""
        return self.batch // self.part

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return int(self.optim.warmup * self.steps)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        if self.batch % self.part:
            problems.append(f"part: expected a divisor of batch {self.batch}, found {self.part}")
        upright = [list(size) for size in self.resolutions if size[0] < size[1]]
        if upright:
            problems.append(f"resolutions: expected (width, height) with the longer side first, found {upright[0]}")
        smallest = min(width * height for width, height in self.resolutions)
        if self.loss.matches > smallest:
            problems.append(f"loss.matches: expected at most {smallest}, the pixels of the smallest resolution")
        if self.decoder.dim % (4 * self.decoder.heads):
            problems.append(f"decoder.dim: expected a multiple of 4 x {self.decoder.heads} heads")
        if self.features and (self.augment.crops or self.augment.colours):
            problems.append("features: with random crops or colours no image comes twice. Turn both off")
        if problems:
            raise ValueError(". ".join(problems))
        return self


def dune_448() -> Mast3rRecipe:
    """DUNE's decoder for students of 448 px: 6.5 M pairs at a long side of 518 px."""
    return Mast3rRecipe()


def dune_336() -> Mast3rRecipe:
    """DUNE's decoder for students of 336 px: 6.5 M pairs at a long side of 448 px."""
    sizes = tuple((448, height) for height in (448, 336, 294, 252, 224, 140))
    return Mast3rRecipe(resolutions=sizes)


def laptop() -> Mast3rRecipe:
    """A decoder of four narrow blocks at 112 px that learns on two CPU cores in minutes; float32 throughout."""
    return Mast3rRecipe(
        steps=400,
        resolutions=((112, 84),),
        batch=2,
        part=2,
        encoder_precision="fp32",
        decoder=DecoderConfig(
            dim=96, depth=4, heads=3, dpt_dims=(24, 48, 96, 96), dpt_features=48, dpt_last=32, desc_dim=24
        ),
        loss=LossConfig(matches=1024),
        optim=OptimConfig(lr=1e-3, warmup=0.05),
        augment=AugmentConfig(crops=False, colours=False, monocular=0.0),
        checkpoint=Checkpoint(every_steps=100, keep=2),
        workers=0,
    )


RECIPES: dict[str, Callable[[], Mast3rRecipe]] = {"dune-448": dune_448, "dune-336": dune_336, "laptop": laptop}
DEFAULT = "dune-448"
