"""The pair model: two images to points in the first camera's frame, confidences and descriptors.

Shapes: B pairs, H W pixels, h w the patch grid, N = h w tokens, E channels of the encoder, D of a descriptor.
Source: MASt3R (Leroy et al., ECCV 2024); DUNE, App. B, for the student's variant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from eval.heads.mast3r.activations import Activations, activate
from eval.heads.mast3r.decoder import TwoStreamDecoder, rotations
from eval.heads.mast3r.dpt import HeadSizes, PairHead
from eval.heads.mast3r.encoders import STUDENT_NORM_EPS, PairEncoder
from extract.teachers.croco import rotary_table
from store.errors import InvalidInput

Images = Tensor | np.ndarray
Shapes = Tensor | np.ndarray | Sequence[Sequence[int]]
Maps = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class ViewTokens:
    """The encoder's tokens of one view of B pairs, as the decoder takes them; may come from a cache.

    Attributes:
        tokens: (B, N, E), row-major on each image's own grid; computed with in float32.
        grid: (rows, cols) of patches of the images as stored.
        portrait: which images are portraits that are stored transposed; None where images are stored as they are.
    """

    tokens: Tensor
    grid: tuple[int, int]
    portrait: tuple[bool, ...] | None = None


class PairDecoder(TwoStreamDecoder):
    """Decoder and heads, under the names of MASt3R's files. Arguments: see `TwoStreamDecoder` and `HeadSizes`."""

    def __init__(
        self,
        *,
        enc_embed_dim: int,
        dec_embed_dim: int,
        depth: int,
        num_heads: int,
        sizes: HeadSizes,
        mlp_hidden: int | None = None,
    ) -> None:
        super().__init__(
            enc_embed_dim=enc_embed_dim,
            dec_embed_dim=dec_embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_hidden=mlp_hidden,
        )
        self.downstream_head1 = PairHead(enc_embed_dim=enc_embed_dim, dec_embed_dim=dec_embed_dim, sizes=sizes)
        self.downstream_head2 = PairHead(enc_embed_dim=enc_embed_dim, dec_embed_dim=dec_embed_dim, sizes=sizes)

    def view_entries(self, one: ViewTokens, two: ViewTokens) -> tuple[list[Tensor], list[Tensor]]:
        """Decode two views to the four sets of tokens that the heads read; see `decode`."""
        tables = [
            rotations(
                rotary_table(view.grid, self.head_dim, device=view.tokens.device),
                rotary_table(view.grid[::-1], self.head_dim, device=view.tokens.device),
                view.portrait,
            )
            for view in (one, two)
        ]
        return self.decode(one.tokens.float(), tables[0], two.tokens.float(), tables[1])


class PairModel(nn.Module):
    """Encoder, decoder and heads of a pair of images.

    Call it on two batches of images; `encode` and `decode` are its two halves. In evaluation mode, as it is loaded, a
    call keeps nothing for a backward pass; `train()` does.

    Args:
        encoder: encoder of single images.
        mast3r: decoder and heads.
        activations: modes of the outputs.
        student: the encoder is a frozen student, behind which a LayerNorm is trained.
    """

    def __init__(self, encoder: PairEncoder, mast3r: PairDecoder, activations: Activations, *, student: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(encoder.embed_dim, eps=STUDENT_NORM_EPS) if student else None
        self.mast3r = mast3r
        self.encoder = encoder
        self.activations = activations
        self.patch_size = encoder.patch_size
        self.unused: dict[str, Tensor] = {}
        """Tensors that the released layout has and nothing reads, by their names in it."""

    def forward(
        self,
        images1: Images,
        images2: Images,
        *,
        true_shape1: Shapes | None = None,
        true_shape2: Shapes | None = None,
        symmetrised: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Predict both views, in the frame of the first view's camera (x right, y down, z forward).

        Args:
            images1: uint8 (B, H, W, 3), RGB; sides are multiples of the patch size.
            images2: as many images of the other view, which may have another size.
            true_shape1: (B, 2), height and width of each image. With it images are stored landscape, a portrait
                transposed, and so are the maps returned (the order x, y, z of points stays); None takes images as
                they are.
            true_shape2: the same for the other view.
            symmetrised: the batch is [a0, b0, a1, b1, ...] and [b0, a0, b1, a1, ...]; see `is_symmetrised`. Each image
                is then encoded once.

        Returns:
            For the first view `pts3d` (B, H, W, 3), for the second `pts3d_in_other_view`; for both `conf` (B, H, W),
            `desc` (B, H, W, D) of length 1, `desc_conf` (B, H, W). float32.

        Raises:
            InvalidInput: other types, sizes, or numbers of images.
        """
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return self.decode(*self._encode_pair(images1, images2, true_shape1, true_shape2, symmetrised))

    def raw(
        self,
        images1: Images,
        images2: Images,
        *,
        true_shape1: Shapes | None = None,
        true_shape2: Shapes | None = None,
        symmetrised: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return what the DPT gives before its activations, x, y, z and confidence: two maps (B, 4, H, W).

        Arguments and errors: see `forward`.
        """
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            one, two = self._encode_pair(images1, images2, true_shape1, true_shape2, symmetrised)
            entries1, entries2 = self.mast3r.view_entries(one, two)
            with torch.autocast(one.tokens.device.type, enabled=False):
                raw1 = oriented(self.mast3r.downstream_head1.points, entries1, one)[0]
                raw2 = oriented(self.mast3r.downstream_head2.points, entries2, two)[0]
        return raw1, raw2

    def encode(self, images: Images, true_shape: Shapes | None = None) -> ViewTokens:
        """Encode one view; a student's tokens have passed the trained norm.

        Args:
            images: uint8 (B, H, W, 3).
            true_shape: see `forward`.

        Raises:
            InvalidInput: see `forward`.
        """
        pixels = self._checked(images)
        view = self.encode_frozen(pixels, true_shape)
        return self.normed(view)

    def encode_frozen(self, images: Images, true_shape: Shapes | None = None) -> ViewTokens:
        """Encode one view up to what is trained: the part that a cache can hold for a frozen student."""
        pixels = self._checked(images)
        grid = (pixels.shape[1] // self.patch_size, pixels.shape[2] // self.patch_size)
        portrait = _portraits(true_shape, pixels)
        if portrait is None or not any(portrait):
            return ViewTokens(tokens=self.encoder(pixels), grid=grid, portrait=portrait)
        upright, lying = _split(portrait)
        parts = [self.encoder(pixels[lying].transpose(1, 2))]
        if upright:
            parts.insert(0, self.encoder(pixels[upright]))
        return ViewTokens(tokens=_merged(torch.cat(parts), upright + lying), grid=grid, portrait=portrait)

    def normed(self, view: ViewTokens) -> ViewTokens:
        """Apply the norm behind a student; other encoders have their own."""
        if self.norm is None:
            return view
        return ViewTokens(tokens=self.norm(view.tokens.float()), grid=view.grid, portrait=view.portrait)

    def decode(self, one: ViewTokens, two: ViewTokens) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Predict both views from their tokens; see `forward`. The heads run in float32 under any autocast."""
        entries1, entries2 = self.mast3r.view_entries(one, two)
        with torch.autocast(one.tokens.device.type, enabled=False):
            raw1 = oriented(self.mast3r.downstream_head1, entries1, one)
            raw2 = oriented(self.mast3r.downstream_head2, entries2, two)
            first = activate(raw1[0], raw1[1], self.activations)
            second = activate(raw2[0], raw2[1], self.activations)
        return first, {"pts3d_in_other_view": second.pop("pts3d"), **second}

    def _encode_pair(
        self,
        images1: Images,
        images2: Images,
        true_shape1: Shapes | None,
        true_shape2: Shapes | None,
        symmetrised: bool,
    ) -> tuple[ViewTokens, ViewTokens]:
        one, two = self._checked(images1), self._checked(images2)
        if len(one) != len(two):
            raise InvalidInput(f"pair of {len(one)} and {len(two)} images: expected as many of each view")
        if (true_shape1 is None) != (true_shape2 is None):
            raise InvalidInput("true shapes of one view only: give those of both views, or none")
        shapes1, shapes2 = _true_shapes(true_shape1, len(one)), _true_shapes(true_shape2, len(two))
        if symmetrised:
            return self._encode_symmetrised(one, two, shapes1, shapes2)
        if one.shape != two.shape:
            return self.encode(one, shapes1), self.encode(two, shapes2)
        shapes = None if shapes1 is None or shapes2 is None else torch.cat([shapes1, shapes2])
        both = self.encode(torch.cat([one, two]), shapes)
        return _part(both, slice(None, len(one))), _part(both, slice(len(one), None))

    def _encode_symmetrised(
        self, one: Tensor, two: Tensor, shapes1: Tensor | None, shapes2: Tensor | None
    ) -> tuple[ViewTokens, ViewTokens]:
        """Encode [a0, b0, ...] and [b0, a0, ...] from the even entries of each."""
        if len(one) % 2 or one.shape != two.shape:
            raise InvalidInput(
                f"symmetrised batch of {tuple(one.shape)} and {tuple(two.shape)}: expected an even number of images "
                "of one size"
            )
        even = slice(None, None, 2)
        shapes = None if shapes1 is None or shapes2 is None else torch.cat([shapes1[even], shapes2[even]])
        both = self.encode(torch.cat([one[even], two[even]]), shapes)
        half = len(one) // 2
        order = torch.arange(2 * half).view(2, half).T.flatten()  # a0, b0, a1, b1, ...
        swapped = order.view(half, 2).flip(1).flatten()
        return _picked(both, order.tolist()), _picked(both, swapped.tolist())

    def _checked(self, images: Images) -> Tensor:
        """Return images as a tensor on the model's device; shape and type are checked."""
        pixels = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            found = f"{pixels.dtype} of shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels)
            raise InvalidInput(f"images: expected uint8 of shape (batch, height, width, 3), found {found}")
        height, width = pixels.shape[1:3]
        if not len(pixels) or not height or not width or height % self.patch_size or width % self.patch_size:
            raise InvalidInput(
                f"{len(pixels)} images of {height}x{width} px: expected at least one, with sides that are multiples "
                f"of the patch size {self.patch_size}"
            )
        return pixels.to(self.mast3r.decoder_embed.weight.device)


def is_symmetrised(instances1: Sequence[str], instances2: Sequence[str]) -> bool:
    """Tell whether a batch holds every pair in both orders, one after the other, from the names of its images.

    A batch of one pair never does.
    """
    if len(instances1) != len(instances2) or len(instances1) < 2 or len(instances1) % 2:
        return False
    even, odd = slice(None, None, 2), slice(1, None, 2)
    return list(instances1[even]) == list(instances2[odd]) and list(instances1[odd]) == list(instances2[even])


def oriented(head: Callable[[list[Tensor], tuple[int, int]], Maps], entries: list[Tensor], view: ViewTokens) -> Maps:
    """Run a head on the landscapes and on the portraits of a view; maps of portraits are transposed back.

    Args:
        head: function of sets of tokens and their grid; returns maps (B, channels, H, W).
        entries: sets of tokens (B, N, channels).
        view: the view that they belong to.

    Returns:
        Maps of all images, as the images are stored.
    """
    if view.portrait is None or not any(view.portrait):
        return head(entries, view.grid)
    upright, lying = _split(view.portrait)
    turned = [maps.transpose(2, 3) for maps in head([tokens[lying] for tokens in entries], view.grid[::-1])]
    if not upright:
        return tuple(turned)
    landscape = head([tokens[upright] for tokens in entries], view.grid)
    pairs = zip(landscape, turned, strict=True)
    return tuple(_merged(torch.cat([one, two]), upright + lying) for one, two in pairs)


def _split(portrait: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Return the numbers of the landscapes, and those of the portraits."""
    return [i for i, is_so in enumerate(portrait) if not is_so], [i for i, is_so in enumerate(portrait) if is_so]


def _merged(parts: Tensor, order: list[int]) -> Tensor:
    """Put rows back in place: row j of `parts` belongs to image `order[j]`."""
    return parts[[order.index(number) for number in range(len(order))]]


def _part(view: ViewTokens, rows: slice) -> ViewTokens:
    return ViewTokens(
        tokens=view.tokens[rows], grid=view.grid, portrait=None if view.portrait is None else view.portrait[rows]
    )


def _picked(view: ViewTokens, rows: list[int]) -> ViewTokens:
    portrait = None if view.portrait is None else tuple(view.portrait[row] for row in rows)
    return ViewTokens(tokens=view.tokens[rows], grid=view.grid, portrait=portrait)


def _true_shapes(shapes: Shapes | None, count: int) -> Tensor | None:
    """Return true shapes as a tensor (count, 2).

    Raises:
        InvalidInput: not one pair of integers for each image.
    """
    if shapes is None:
        return None
    try:
        array = np.asarray(shapes)
    except ValueError:  # of different lengths
        array = np.empty(0)
    if array.shape != (count, 2) or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(
            f"true shapes {array.dtype} {array.shape}: expected (height, width) for each of {count} images"
        )
    return torch.from_numpy(array.astype(np.int64))


def _portraits(true_shape: Shapes | None, pixels: Tensor) -> tuple[bool, ...] | None:
    """Return which images are portraits stored transposed; None without true shapes.

    Raises:
        InvalidInput: shapes that are not those of the images, or images not stored landscape.
    """
    shapes = _true_shapes(true_shape, len(pixels))
    if shapes is None:
        return None
    stored = tuple(pixels.shape[1:3])
    if stored[0] > stored[1]:
        raise InvalidInput(f"images of {stored[0]}x{stored[1]} px with true shapes: expected them stored landscape")
    found = [tuple(int(side) for side in shape) for shape in shapes.tolist()]
    wrong = [shape for shape in found if shape not in (stored, stored[::-1])]
    if wrong:
        raise InvalidInput(f"true shape {wrong[0]}: expected {stored}, or {stored[::-1]} for a transposed portrait")
    return tuple(shape != stored for shape in found)
