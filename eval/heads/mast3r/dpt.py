"""MASt3R's heads: a DPT for points and confidence, an MLP a token for descriptors.

Shapes: B views, h w the patch grid, H W = p h, p w pixels with patch size p, E channels of the encoder, D of the
decoder, F features of the DPT. Source: MASt3R; DPT (Ranftl et al., ICCV 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.timm_library import Mlp
from store.errors import InvalidInput

COARSE = 8  # pixels of the fused map per cell of the patch grid
RAW_CHANNELS = 4  # x, y, z, confidence


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Sizes of a head; the defaults are the released ones.

    Attributes:
        patch_size: p, in px.
        layer_dims: channels of the four reassembled maps, finest first.
        feature_dim: F.
        last_dim: channels before the last layer.
        desc_dim: channels of a descriptor.
        desc_hidden: width of the descriptor MLP's hidden layer; None means 4 (E + D).
        two_confs: the descriptor MLP gives a confidence besides.
    """

    patch_size: int = 14
    layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    feature_dim: int = 256
    last_dim: int = 128
    desc_dim: int = 24
    desc_hidden: int | None = None
    two_confs: bool = True


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))); x itself is not rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        grown: Tensor = maps + self.conv2(functional.relu(self.conv1(functional.relu(maps))))
        return grown


class Fusion(nn.Module):
    """One step of the DPT from coarse to fine: add the finer map, refine, double the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualConvUnit(channels)
        self.resConfUnit2 = ResidualConvUnit(channels)

    def forward(self, coarse: Tensor, finer: Tensor | None = None) -> Tensor:
        """Fuse (B, F, r, c) with a map of the same size; the coarsest has none; returns (B, F, 2 r, 2 c).

        The 1x1 convolution stands after the upsampling in the original. Interpolation weights sum to one, so the two
        can be exchanged, and the convolution takes a quarter of the time.
        """
        if finer is not None:
            coarse = coarse + self.resConfUnit1(finer)
        refined = self.out_conv(self.resConfUnit2(coarse))
        size = (2 * refined.shape[-2], 2 * refined.shape[-1])
        return functional.interpolate(refined, size=size, mode="bilinear", align_corners=True)


class Scratch(nn.Module):
    """Projections to F channels, under both names that files have them, and the four fusions."""

    def __init__(self, sizes: HeadSizes) -> None:
        super().__init__()
        convs = [nn.Conv2d(dim, sizes.feature_dim, 3, padding=1, bias=False) for dim in sizes.layer_dims]
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = convs
        self.layer_rn = nn.ModuleList(convs)
        self.refinenet1 = Fusion(sizes.feature_dim)
        self.refinenet2 = Fusion(sizes.feature_dim)
        self.refinenet3 = Fusion(sizes.feature_dim)
        self.refinenet4 = Fusion(sizes.feature_dim)
        self.refinenet4.resConfUnit1.requires_grad_(False)  # the coarsest map has nothing to be fused with


class Upsample(nn.Module):
    """Bilinear upsampling to the patch's pixels, from 8 a cell; it has no parameters, only a place among the layers."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, maps: Tensor) -> Tensor:
        size = [side // COARSE * self.patch_size for side in maps.shape[-2:]]
        return functional.interpolate(maps, size=size, mode="bilinear", align_corners=True)


class DPT(nn.Module):
    """Points and confidence of every pixel, from four sets of tokens.

    Args:
        enc_embed_dim: E, of the first set.
        dec_embed_dim: D, of the other three.
        sizes: sizes of the head.
    """

    def __init__(self, *, enc_embed_dim: int, dec_embed_dim: int, sizes: HeadSizes) -> None:
        super().__init__()
        fine, middle, coarse, coarsest = sizes.layer_dims
        self.scratch = Scratch(sizes)
        half = sizes.feature_dim // 2
        self.head = nn.Sequential(
            nn.Conv2d(sizes.feature_dim, half, 3, padding=1),
            Upsample(sizes.patch_size),
            nn.Conv2d(half, sizes.last_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(sizes.last_dim, RAW_CHANNELS, 1),
        )
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(enc_embed_dim, fine, 1), nn.ConvTranspose2d(fine, fine, 4, stride=4)),
                nn.Sequential(nn.Conv2d(dec_embed_dim, middle, 1), nn.ConvTranspose2d(middle, middle, 2, stride=2)),
                nn.Sequential(nn.Conv2d(dec_embed_dim, coarse, 1)),
                nn.Sequential(
                    nn.Conv2d(dec_embed_dim, coarsest, 1), nn.Conv2d(coarsest, coarsest, 3, stride=2, padding=1)
                ),
            ]
        )

    def forward(self, entries: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return raw x, y, z and confidence (B, 4, p h, p w) of four sets of tokens (B, h w, channels), row-major."""
        rows, cols = grid
        maps = [
            conv(postprocess(tokens.transpose(1, 2).reshape(len(tokens), -1, rows, cols)))
            for tokens, postprocess, conv in zip(entries, self.act_postprocess, self.scratch.layer_rn, strict=True)
        ]
        fused = self.scratch.refinenet4(maps[3])[..., :rows, :cols]  # one row or column too many for odd grids
        fused = self.scratch.refinenet3(fused, maps[2])
        fused = self.scratch.refinenet2(fused, maps[1])
        fused = self.scratch.refinenet1(fused, maps[0])
        raw: Tensor = self.head(fused)
        return raw


class PairHead(nn.Module):
    """Both heads of one view, under the names of MASt3R's files."""

    def __init__(self, *, enc_embed_dim: int, dec_embed_dim: int, sizes: HeadSizes) -> None:
        super().__init__()
        if sizes.patch_size < 1 or min(sizes.layer_dims) < 1:
            raise InvalidInput(f"head of sizes {sizes}: expected positive ones")
        self.patch_size = sizes.patch_size
        self.dpt = DPT(enc_embed_dim=enc_embed_dim, dec_embed_dim=dec_embed_dim, sizes=sizes)
        width = enc_embed_dim + dec_embed_dim
        outputs = (sizes.desc_dim + sizes.two_confs) * sizes.patch_size**2
        self.head_local_features = Mlp(width, sizes.desc_hidden or 4 * width, outputs)

    def points(self, entries: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor]:
        """Return the raw map of points and confidence alone; see `DPT`."""
        return (self.dpt(entries, grid),)

    def descriptors(self, entries: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return raw descriptors (B, channels, p h, p w) from the first and the last set of tokens."""
        joined = torch.cat([entries[0], entries[-1]], dim=-1)
        patches = self.head_local_features(joined).transpose(1, 2).reshape(len(joined), -1, *grid)
        return functional.pixel_shuffle(patches, self.patch_size)

    def forward(self, entries: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the raw maps of points and confidence, and of descriptors."""
        return self.dpt(entries, grid), self.descriptors(entries, grid)
