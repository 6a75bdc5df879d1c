"""The recipe of a training of the perception head; imports no torch."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from eval.heads.recipes.base import HeadRecipe
from store.common.config import parse
from train.recipe.config import (
    Count,
    CountOrNone,
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

PATCH_PX = 14
POINTS_2D = ("j2d", "v2d")


class LossWeights(Section):
    """Weights of the terms; defaults are those of the authors' trainer.

    Attributes:
        bce: detection.
        offset: place of the head in its cell.
        rotmat: rotations.
        shape: shape numbers.
        dist: scaled logarithm of the distance.
        transl: place of the head in space.
        j3d: joints around the pelvis.
        v3d: vertices around the pelvis.
        j2d: joints in px.
        v2d: vertices in px.
        start_2d_epoch: first epoch of the terms in px; before it they count nothing.
    """

    bce: NotNegativeFloat = 10.0
    offset: NotNegativeFloat = 1.0
    rotmat: NotNegativeFloat = 0.1
    shape: NotNegativeFloat = 1.0
    dist: NotNegativeFloat = 1.0
    transl: NotNegativeFloat = 1.0
    j3d: NotNegativeFloat = 100.0
    v3d: NotNegativeFloat = 100.0
    j2d: NotNegativeFloat = 1.0
    v2d: NotNegativeFloat = 1.0
    start_2d_epoch: CountOrNone = 10

    def at(self, epoch: int) -> dict[str, float]:
        """Return the weight of each term in an epoch."""
        weights: dict[str, float] = self.model_dump(exclude={"start_2d_epoch"})
        hidden = POINTS_2D if epoch < self.start_2d_epoch else ()
        return {name: 0.0 if name in hidden else weight for name, weight in weights.items()}


class HeadConfig(Section):
    """Form of the head; its rotations, shape and expression numbers are those of the body model.

    Attributes:
        blocks: transformer blocks between the frozen student and the head.
        block_heads: their attention heads.
        tokens: tokens of the student that enter the blocks: its "patches", or its CLS too ("all").
        dim: inner width of the person decoder.
        depth: its layers.
        heads: its attention heads.
        dim_head: width of one of them.
        mlp_dim: hidden width of its MLPs.
    """

    blocks: FewOrNone = 2
    block_heads: Few = 12
    tokens: Literal["patches", "all"] = "patches"
    dim: Width = 1024
    depth: Few = 2
    heads: Few = 8
    dim_head: Few = 32
    mlp_dim: Width = 1024


class HphRecipe(HeadRecipe):
    """A training of the perception head on a frozen student; defaults are DUNE's where the paper tells them.

    From the paper: 672 px, rate 4e-5, batch 16, cosine decay over 200,000 steps, two blocks. From Multi-HMR's trainer:
    Adam without weight decay, no clipping, images drawn with replacement, half of them mirrored, epochs of 100 steps.
    Ours: the arithmetic (the authors use fp16 without loss scaling) and the form of the blocks.

    Attributes:
        kind: tells such a run from others.
        seed: seed of the first weights and of the order of images.
        img_size: side of the input image, px.
        batch: images a step.
        steps: optimizer steps.
        lr: learning rate of the first step, which a half cosine takes to `minimum_lr`.
        minimum_lr: learning rate at the end.
        precision: arithmetic of blocks and head: "fp32", or autocast to "bf16" or "fp16" (without loss scaling);
            rotations, distances and projections are always float32.
        flip: share of images that are mirrored.
        steps_per_epoch: steps that count as an epoch for `losses.start_2d_epoch`.
        head: form of the head.
        losses: weights of the losses.
        checkpoint: saving.
        readers: threads that read images.
    """

    TITLE: ClassVar[str] = "training of a perception head"
    FREE: ClassVar[tuple[str, ...]] = ("checkpoint", "readers")

    kind: Literal["hph"] = "hph"
    img_size: Width = 672
    batch: Images = 16
    steps: Steps = 200_000
    lr: PositiveFloat = 4e-5
    minimum_lr: NotNegativeFloat = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    flip: Share = 0.5
    steps_per_epoch: Count = 100
    head: HeadConfig = HeadConfig()
    losses: LossWeights = LossWeights()
    readers: Annotated[int, Field(ge=1, le=64)] = 4

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        if self.img_size % PATCH_PX:
            problems.append(f"img_size: expected a multiple of {PATCH_PX} px, found {self.img_size}")
        if self.head.tokens == "all" and not self.head.blocks:
            problems.append("head.tokens: 'all' needs blocks that attend to them. Set head.blocks, or take 'patches'")
        if problems:
            raise ValueError(". ".join(problems))
        return self


def dune_672() -> HphRecipe:
    """DUNE's training: BEDLAM at 672 px, 200,000 steps of 16 images."""
    return HphRecipe()


def laptop() -> HphRecipe:
    """A narrow head at 224 px and a few thousand steps of four images, in float32."""
    return HphRecipe(
        img_size=224,
        batch=4,
        steps=4000,
        lr=3e-4,
        precision="fp32",
        head=HeadConfig(blocks=1, block_heads=4, dim=256, heads=4, mlp_dim=256),
        readers=2,
    )


RECIPES: dict[str, Callable[[], HphRecipe]] = {"dune-672": dune_672, "laptop": laptop}
DEFAULT = "dune-672"


def from_mapping(data: Mapping[str, Any], *, subject: str) -> HphRecipe:
    """Build a recipe from plain data.

    Raises:
        InvalidConfig: listing all problems.
    """
    return parse(HphRecipe, data, subject=subject)
