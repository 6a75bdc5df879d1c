"""MASt3R, DUSt3R and CroCo-v2 encoders (CC BY-NC-SA 4.0; naver/mast3r, naver/dust3r, naver/croco).

One architecture, two input normalisations: CroCo takes ImageNet's, the two 3D models (x - 0.5) / 0.5.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backbones import state_dicts, weight_files
from backbones.dino import HEAD_DIM
from backbones.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from extract.teachers import random_weights
from extract.teachers.base import Teacher, dune_resize
from extract.teachers.croco import CrocoEncoder
from extract.teachers.options import Request
from store.errors import InvalidInput

STATE_NAMES = ("model",)
ENCODER = {"patch_embed.": "patch_embed.", "enc_blocks.": "blocks.", "enc_norm.": "norm."}
HALF = (0.5, 0.5, 0.5)
LARGE = {"embed_dim": 1024, "depth": 24, "patch_size": 16, "mlp_hidden": 4096}  # of the released files
CLASSES = {"AsymmetricMASt3R": "mast3r", "AsymmetricCroCo3DStereo": "dust3r"}  # how `args.model` begins
TENSORS = {"prediction_head.": "croco", "downstream_head": "mast3r or dust3r", "dec_blocks2.": "mast3r or dust3r"}


class CrocoTeacher(Teacher):
    """A CroCo-type encoder: all patch tokens after the final norm, no prefix.

    As in DUNE, the ImageNet-normalised image is resized, and only then is the normalisation changed.
    """

    resize_rule = "bicubic, align_corners=True, no antialias, of the ImageNet-normalised image"

    def __init__(self, network: CrocoEncoder, *, request: Request, architecture: Mapping[str, Any]) -> None:
        imagenet = request.model == "croco"
        super().__init__(
            network,
            request=request,
            architecture={"name": "croco_encoder"} | dict(architecture),
            patch_size=network.patch_size,
            channels=network.embed_dim,
            prefix_tokens=0,
            position_rule="rope100",
            mean=IMAGENET_MEAN if imagenet else HALF,
            std=IMAGENET_STD if imagenet else HALF,
        )

    def prepare(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        images = dune_resize(normalise(pixels), size)
        return images if self.mean == IMAGENET_MEAN else renormalise(images)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.network(images)
        return patches[:, :0], patches


def renormalise(images: Tensor) -> Tensor:
    """Turn ImageNet-normalised images (B, 3, H, W) into (x - 0.5) / 0.5, in place and without clamping."""
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        images[:, channel].mul_(std).add_(mean)
    return images.sub_(0.5).div_(0.5)


def build(request: Request) -> Teacher:
    """Build the encoder from a released checkpoint; its decoders and heads are left out.

    Raises:
        InvalidInput: the file holds another architecture, or one of the other two models.
    """
    request.refuse("rule", "stride")
    if request.random_seed is not None:
        architecture = LARGE | {"num_heads": request.num_heads or LARGE["embed_dim"] // HEAD_DIM}
        with torch.device("meta"):
            network = CrocoEncoder(**architecture)
        random_weights.fill(network, request.random_seed)
        return CrocoTeacher(network, request=request, architecture=architecture)
    checkpoint = weight_files.load(request.weights)
    state = state_dicts.strip_wrappers(state_dicts.find(checkpoint, STATE_NAMES, source=request.source))
    _check_kind(checkpoint, state, request)
    encoder = {
        new + name.removeprefix(old): tensor
        for name, tensor in state.items()
        for old, new in ENCODER.items()
        if name.startswith(old)
    }
    architecture = infer(
        encoder, num_heads=request.num_heads, stored_groups=state_dicts.groups(state), source=request.source
    )
    with torch.device("meta"):
        network = CrocoEncoder(**architecture)
    state_dicts.load_into(network, encoder, source=request.source)
    return CrocoTeacher(network, request=request, architecture=architecture)


def infer(state: Mapping[str, Tensor], *, num_heads: int | None, stored_groups: str, source: str) -> dict[str, int]:
    """Read the encoder's architecture off the shapes of its renamed tensors.

    Raises:
        InvalidInput: missing tensors, or a number of channels that the heads do not divide.
    """
    required = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in required if name not in state]
    if missing:
        raise InvalidInput(
            f"{source}: expected tensors patch_embed.*, enc_blocks.* and enc_norm.*, found groups {stored_groups}"
        )
    channels, _, _, patch_size = state["patch_embed.proj.weight"].shape
    heads = num_heads or max(1, channels // HEAD_DIM)
    if channels % (heads * 4):
        raise InvalidInput(f"{source}: {channels} channels, {heads} heads: expected heads of a multiple of 4 channels")
    return {
        "embed_dim": channels,
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "num_heads": heads,
        "patch_size": patch_size,
        "mlp_hidden": state["blocks.0.mlp.fc1.weight"].shape[0],
    }


def _check_kind(checkpoint: Any, state: Mapping[str, Tensor], request: Request) -> None:
    """Refuse a file of a sibling model: its inputs are normalised otherwise, so features would be wrong unnoticed."""
    if "enc_pos_embed" in state:
        raise InvalidInput(f"{request.source}: expected rotary positions, found CroCo-v1's cosine table. Give CroCo-v2")
    constructor = str(getattr(checkpoint.get("args"), "model", "")) if isinstance(checkpoint, Mapping) else ""
    kinds = [kind for name, kind in CLASSES.items() if constructor.startswith(name)]
    kinds += [kind for prefix, kind in TENSORS.items() if any(name.startswith(prefix) for name in state)]
    for kind in kinds[:1]:
        if request.model not in kind.split(" or "):
            raise InvalidInput(f"{request.source}: expected a {request.model} file, found one of {kind}")
    positions = re.search(r"pos_embed='([^']*)'", constructor)
    if positions and positions.group(1) != "RoPE100":
        raise InvalidInput(f"{request.source}: expected positions RoPE100, found {positions.group(1)}")
