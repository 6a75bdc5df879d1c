"""Begin the head of a student: from a MASt3R file by DUNE's rule, or from random weights.

Source: DUNE (Sariyildiz et al., CVPR 2025), App. B: all of MASt3R but the layer between encoder and decoder and the
layers of pixels, which have other shapes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import state_dicts, weight_files
from eval.heads.mast3r.activations import Activations
from eval.heads.mast3r.encoders import StudentPairEncoder, open_student
from eval.heads.mast3r.layout import DECODER, completed
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.read import STATE_NAMES, constructor_of
from eval.heads.mast3r.sizes import PairSizes, infer, stated
from store.errors import InvalidInput
from train.model.encoder import Encoder as StudentNetwork

OF_THE_ENCODER = ("patch_embed.", "enc_blocks.", "enc_norm.", "mask_token")


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """A student's pair model before its training.

    Attributes:
        model: the model, in training mode.
        fresh: names of the tensors that the file had no fitting values for, under the names of the released layout.
    """

    model: PairModel
    fresh: tuple[str, ...]


def from_mast3r(
    weights: str | Path, encoder: "str | Path | StudentNetwork", *, seed: int = 0, **sizes: Any
) -> Initialised:
    """Build a student's pair model and copy into it all of a MASt3R file that fits by shape.

    Each descriptor MLP keeps its ratio of hidden to input channels. What is new is drawn as `draw` says.

    Args:
        weights: file of MASt3R.
        encoder: run directory, file in DUNE's layout, or the network.
        seed: seed of the new tensors.
        sizes: what the weights do not tell; see `read.load`. `enc_num_heads` is that of the student.

    Raises:
        MissingFile, UnsafeFile, Damaged: as `backbones.weight_files.load`.
        InvalidInput: no MASt3R file, tensors that its decoder lacks or has too many, or no such student.
    """
    source = f"weights '{weights}' as MASt3R"
    content = weight_files.load(weights)
    state = state_dicts.strip_wrappers(state_dicts.find(content, STATE_NAMES, source=source))
    if any(name.startswith(DECODER) for name in state):
        raise InvalidInput(f"{source}: expected a file of MASt3R, found DUNE's variant. Load it and train on")
    say = stated(constructor_of(content, source=source), sizes, source=source)
    state = completed(state, plain=True, source=source)
    found = infer(state, say, source=source)
    decoder = {name: tensor for name, tensor in state.items() if not name.startswith(OF_THE_ENCODER)}
    with torch.device("meta"):
        state_dicts.check(found.build().state_dict(), decoder, source=source)
    student = open_student(encoder, num_heads=sizes.get("enc_num_heads"))
    new = fitted(found, student, factor=sizes.get("hidden_dim_factor"))
    model = from_scratch(student, new, modes=say.modes, seed=seed)
    return Initialised(model=model, fresh=_copy_fitting(model, decoder))


def fitted(found: PairSizes, student: StudentPairEncoder, *, factor: float | None = None) -> PairSizes:
    """Return MASt3R's sizes with a student's channels and patch size, and a descriptor MLP in the same proportion.

    Args:
        found: sizes of the file.
        student: the student.
        factor: hidden over input channels of the descriptor MLP; None means as in the file.
    """
    old, new = (width + found.dec_embed_dim for width in (found.enc_embed_dim, student.embed_dim))
    hidden = found.head.desc_hidden or 4 * old
    hidden = hidden * new // old if factor is None else int(factor * new)
    head = replace(found.head, patch_size=student.patch_size, desc_hidden=hidden)
    return replace(found, enc_embed_dim=student.embed_dim, head=head)


def from_scratch(
    encoder: "str | Path | StudentNetwork | StudentPairEncoder",
    sizes: PairSizes,
    *,
    modes: Activations | None = None,
    seed: int = 0,
) -> PairModel:
    """Build a student's pair model with random decoder and heads, in training mode.

    Args:
        encoder: the student; see `from_mast3r`.
        sizes: sizes of decoder and heads.
        modes: modes of the outputs; None takes the released ones.
        seed: seed of the weights.

    Raises:
        InvalidInput: sizes that do not fit the student.
    """
    student = encoder if isinstance(encoder, StudentPairEncoder) else open_student(encoder)
    if (sizes.enc_embed_dim, sizes.head.patch_size) != (student.embed_dim, student.patch_size):
        raise InvalidInput(
            f"decoder for {sizes.enc_embed_dim} channels and patch size {sizes.head.patch_size}: the student has "
            f"{student.embed_dim} and {student.patch_size}"
        )
    model = PairModel(student, sizes.build(), modes or Activations(), student=True)
    draw(model, seed)
    return model.train()


def draw(model: PairModel, seed: int) -> None:
    """Draw every trained weight: matrices Xavier uniform with biases of zero, kernels as PyTorch does, norms identity.

    The paper does not say how its new layers begin; matrices are as in CroCo.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in (model.norm, *model.mast3r.modules()):
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


@torch.no_grad()
def _copy_fitting(model: PairModel, decoder: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy the tensors that fit by shape; returns the names of those that do not, and of the student's norm."""
    own = model.mast3r.state_dict()
    fitting = {name: tensor for name, tensor in decoder.items() if tensor.shape == own[name].shape}
    model.mast3r.load_state_dict(fitting, strict=False)
    new = [DECODER + name for name in own if name not in fitting]
    return ("norm.weight", "norm.bias", *new)
