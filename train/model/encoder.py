"""The student's encoder: DINOv2-type ViTs as DUNE trains them, or any ViT of timm by name.

Shapes: B images, H W pixels, N patches, R registers, D channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.position import resample_pos_embed
from backbones.vit import DinoVisionTransformer
from store.common.config import near_miss
from store.errors import InvalidInput
from train.recipe.config import Student

ARCHITECTURES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}  # embed_dim, depth, num_heads
TIMM_PREFIX = "timm:"
UNUSED_TIMM_PARTS = ("norm", "fc_norm", "attn_pool", "head")  # modules after the last block


class TimmEncoder(nn.Module):
    """A ViT of timm behind the interface of `DinoVisionTransformer`; weights are random, as timm initialises them.

    Args:
        name: timm's name of the model, without `timm:`.
        pos_grid: (rows, cols) of patches that the position embedding is made for.

    Raises:
        InvalidInput: unknown name, or a model that is not a ViT or takes one input size only.
    """

    def __init__(self, name: str, *, pos_grid: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        with torch.device("meta"):
            self.patch_size = _patch_size(_create_timm(name, {}), name)
        size_px = (pos_grid[0] * self.patch_size, pos_grid[1] * self.patch_size)
        self.vit = _create_timm(name, {"img_size": size_px, "dynamic_img_size": True})
        self.pos_grid = pos_grid
        self.embed_dim = int(self.vit.embed_dim)
        self.prefix_tokens = int(self.vit.num_prefix_tokens)
        has_cls = getattr(self.vit, "cls_token", None) is not None
        self.register_tokens = self.prefix_tokens - int(has_cls)
        attention = getattr(self.vit.blocks[0], "attn", None)
        self.num_heads = int(getattr(attention, "num_heads", self.embed_dim // 64))
        for part in UNUSED_TIMM_PARTS:
            if isinstance(module := getattr(self.vit, part, None), nn.Module):
                module.requires_grad_(False)

    @property
    def blocks(self) -> nn.Module:
        blocks: nn.Module = self.vit.blocks
        return blocks

    def forward_tokens(self, images: Tensor, *, taps: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (B, 1 + R + N, D) after the last block before any final norm, and those after each tapped block.

        Args:
            images: normalised float (B, 3, H, W).
            taps: numbers of the tapped blocks, from 0.
        """
        last = len(self.vit.blocks) - 1
        blocks = sorted({*taps, last})
        outputs = self.vit.forward_intermediates(
            images, indices=blocks, return_prefix_tokens=True, norm=False, output_fmt="NLC", intermediates_only=True
        )
        # without prefix tokens timm returns the patches alone
        tokens = [torch.cat([item[1], item[0]], dim=1) if self.prefix_tokens else item for item in outputs]
        by_block = dict(zip(blocks, tokens, strict=True))
        return by_block[last], tuple(by_block[tap] for tap in taps)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens after the model's own final norm; (B, 3, H, W) -> (B, 1 + R + N, D)."""
        tokens: Tensor = self.vit.forward_features(images)
        return tokens

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (B, 1 + R + N, D) into CLS (B, 1 or 0, D), registers (B, R, D) and patches (B, N, D)."""
        registers = self.prefix_tokens - self.register_tokens
        return tokens[:, :registers], tokens[:, registers : self.prefix_tokens], tokens[:, self.prefix_tokens :]


Encoder = DinoVisionTransformer | TimmEncoder


def build_encoder(student: Student, *, pos_grid: tuple[int, int]) -> Encoder:
    """Build an encoder with fresh weights from torch's global random state.

    The final norm is frozen: projectors read the tokens before it, so it would never get a gradient; the released
    students keep it untrained too.

    Args:
        student: section `student` of the recipe.
        pos_grid: (rows, cols) of patches of the training views.

    Raises:
        InvalidInput: unknown architecture, or settings that do not fit together.

    Source: naver/dune.
    """
    if student.architecture.startswith(TIMM_PREFIX):
        _refuse_overrides(student)
        return TimmEncoder(student.architecture.removeprefix(TIMM_PREFIX), pos_grid=pos_grid)
    if student.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InvalidInput(
            f"architecture '{student.architecture}': expected one of {known}, or timm:<model name>"
            + near_miss(student.architecture, ARCHITECTURES)
        )
    embed_dim, depth, num_heads = ARCHITECTURES[student.architecture]
    encoder = DinoVisionTransformer(
        embed_dim=student.embed_dim or embed_dim,
        depth=student.depth or depth,
        num_heads=student.num_heads or num_heads,
        patch_size=student.patch_size,
        register_tokens=student.registers,
        layer_scale=student.layer_scale,
        pos_grid=pos_grid,
        pos_rule="dune",
    )
    encoder.norm.requires_grad_(False)
    return encoder


def resized_to_grid(images: Tensor, *, patch_size: int, cell_px: int) -> Tensor:
    """Resize images so that an encoder of another patch size has as many patches as the teachers' grid has cells.

    The rule is DUNE's for its teachers: bicubic, align_corners=True, no antialias.

    Args:
        images: normalised float (B, 3, H, W).
        patch_size: patch size of the encoder, px; if it equals `cell_px`, the images are returned as they are.
        cell_px: pixels of a stored view per cell of the grid.
    """
    if patch_size == cell_px:
        return images
    size = [round(side * patch_size / cell_px) for side in images.shape[-2:]]
    return functional.interpolate(images, size=size, mode="bicubic", align_corners=True)


def has_cls(encoder: Encoder) -> bool:
    """Tell whether the encoder has a CLS token."""
    return encoder.prefix_tokens > encoder.register_tokens


def depth(encoder: Encoder) -> int:
    """Return the number of transformer blocks."""
    return len(list(encoder.blocks.children()))


@torch.no_grad()
def resize_position(encoder: Encoder, pos_grid: tuple[int, int]) -> None:
    """Fit the stored position embedding to another training resolution, in place, once (DUNE's 336 -> 448).

    A third rule besides those of the forward pass: bicubic to a target size, no antialias. timm's models use timm's.

    Args:
        encoder: encoder whose embedding is replaced.
        pos_grid: (rows, cols) of patches at the new resolution.
    """
    if isinstance(encoder, TimmEncoder):
        encoder.vit.set_input_size(img_size=(pos_grid[0] * encoder.patch_size, pos_grid[1] * encoder.patch_size))
    else:
        resized = resample_pos_embed(encoder.pos_embed, pos_grid, rule="stage", stored_grid=encoder.pos_grid)
        encoder.pos_embed = nn.Parameter(resized.clone())
    encoder.pos_grid = pos_grid


def _create_timm(name: str, options: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except RuntimeError as error:
        raise InvalidInput(f"timm model '{name}': {error}{near_miss(name, timm.list_models())}") from error
    except TypeError as error:
        raise InvalidInput(
            f"timm model '{name}': takes one input size only ({error}). Choose a plain ViT, for example "
            "timm:vit_small_patch14_reg4_dinov2"
        ) from error


def _patch_size(model: Any, name: str) -> int:
    needed = ("blocks", "patch_embed", "num_prefix_tokens", "forward_intermediates")
    missing = [attribute for attribute in needed if not hasattr(model, attribute)]
    if missing:
        raise InvalidInput(
            f"timm model '{name}': expected a ViT, found {type(model).__name__} without {', '.join(missing)}. "
            "Choose a ViT, for example timm:vit_small_patch14_reg4_dinov2"
        )
    return int(model.patch_embed.patch_size[0])


def _refuse_overrides(student: Student) -> None:
    default = Student()
    changed = [
        f"{key} = {value!r}"
        for key, value in student
        if key not in ("architecture", "image_size") and value != getattr(default, key)
    ]
    if changed:
        raise InvalidInput(
            f"architecture '{student.architecture}': {', '.join(changed)} would have no effect, the timm model "
            "brings its own. Leave it out"
        )
