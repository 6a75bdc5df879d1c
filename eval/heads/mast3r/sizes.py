"""Sizes of a pair model: read off the shapes of its tensors; the few that shapes do not tell, from the file or caller.

Names of sizes are those of the authors' constructors. Shapes of a file tell all but the numbers of heads and the modes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from backbones import state_dicts
from backbones.dino import HEAD_DIM
from eval.heads.mast3r.activations import Activations, read_modes
from eval.heads.mast3r.dpt import HeadSizes
from eval.heads.mast3r.model import PairDecoder
from store.common.config import near_miss
from store.common.text import some
from store.errors import InvalidInput

HEADS = ("num_heads", "enc_num_heads", "dec_num_heads")
MODES = ("depth_mode", "conf_mode", "desc_conf_mode", "two_confs")
TOLD = (
    *("patch_size", "enc_embed_dim", "enc_depth", "dec_embed_dim", "dec_depth", "desc_dim", "hidden_dim_factor"),
    *("dpt_layer_dims", "dpt_feature_dim", "dpt_last_dim"),
)  # sizes that shapes tell: what a caller passes must agree
KNOWN = (*HEADS, *MODES, *TOLD, "img_size")
REQUIRED = (
    *("decoder_embed.weight", "dec_blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"),
    *("downstream_head1.head_local_features.fc1.weight", "downstream_head1.head_local_features.fc2.weight"),
    *(f"downstream_head1.dpt.act_postprocess.{i}.0.weight" for i in range(4)),
    *("downstream_head1.dpt.scratch.refinenet1.out_conv.weight", "downstream_head1.dpt.head.2.weight"),
)


@dataclass(frozen=True, kw_only=True)
class PairSizes:
    """Sizes of decoder and heads.

    Attributes:
        enc_embed_dim: channels of the encoder.
        dec_embed_dim: channels of the decoder.
        dec_depth: blocks of each stream.
        dec_num_heads: attention heads of a block.
        mlp_hidden: width of the blocks' MLPs; None means 4 x `dec_embed_dim`.
        head: sizes of the heads.
    """

    enc_embed_dim: int
    dec_embed_dim: int = 768
    dec_depth: int = 12
    dec_num_heads: int = 12
    mlp_hidden: int | None = None
    head: HeadSizes = field(default_factory=HeadSizes)

    def build(self) -> PairDecoder:
        """Build decoder and heads with PyTorch's default weights.

        Raises:
            InvalidInput: sizes that do not fit together.
        """
        return PairDecoder(
            enc_embed_dim=self.enc_embed_dim,
            dec_embed_dim=self.dec_embed_dim,
            depth=self.dec_depth,
            num_heads=self.dec_num_heads,
            mlp_hidden=self.mlp_hidden,
            sizes=self.head,
        )


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What shapes do not tell.

    Attributes:
        modes: modes of the outputs.
        enc_num_heads: heads of the encoder; None means channels / 64.
        dec_num_heads: heads of the decoder; None means channels / 64.
    """

    modes: Activations
    enc_num_heads: int | None
    dec_num_heads: int | None


def stated(constructor: Mapping[str, Any] | None, sizes: Mapping[str, Any], *, source: str) -> Stated:
    """Join what the file's constructor and the caller say; the caller wins.

    Args:
        constructor: arguments in the file; None if it has none.
        sizes: arguments of the caller.
        source: name of the file in error messages.

    Raises:
        InvalidInput: unknown names, or heads that are not positive integers.
    """
    unknown = [name for name in sizes if name not in KNOWN]
    if unknown:
        raise InvalidInput(
            f"{source}: unknown size '{unknown[0]}'{near_miss(unknown[0], KNOWN)}. Known: {', '.join(KNOWN)}"
        )
    joined = {**(constructor or {}), **{name: value for name, value in sizes.items() if value is not None}}
    for name in HEADS:
        value = joined.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidInput(f"{source}: {name} {value!r}: expected a positive integer")
    both = sizes.get("num_heads")
    return Stated(
        modes=read_modes(joined, stated=constructor is not None),
        enc_num_heads=sizes.get("enc_num_heads", both or joined.get("enc_num_heads")),
        dec_num_heads=sizes.get("dec_num_heads", both or joined.get("dec_num_heads")),
    )


def infer(state: Mapping[str, Tensor], say: Stated, *, source: str) -> PairSizes:
    """Read the sizes off a state dict with MASt3R's names (`decoder_embed.*`, `dec_blocks.*` ...).

    Raises:
        InvalidInput: tensors are missing, or of shapes that no such model has.
    """
    missing = [name for name in REQUIRED if name not in state]
    if missing:
        listed = some(missing, limit=state_dicts.LISTED_NAMES)
        raise InvalidInput(
            f"{source}: expected a MASt3R decoder with heads, found no {listed}; groups {state_dicts.groups(state)}"
        )
    kernels = ("patch_embed.proj.weight", *(name for name in REQUIRED if ".dpt." in name))
    odd = [name for name in REQUIRED if state[name].ndim != (4 if name in kernels else 2) or not state[name].numel()]
    if odd:
        raise InvalidInput(f"{source}: expected matrices and kernels, found {some(odd, limit=3)} of another kind")
    dec_embed_dim, enc_embed_dim = state["decoder_embed.weight"].shape
    if say.dec_num_heads is None and dec_embed_dim % HEAD_DIM:
        raise InvalidInput(f"{source}: {dec_embed_dim} channels are no multiple of {HEAD_DIM}. Pass dec_num_heads")
    return PairSizes(
        enc_embed_dim=enc_embed_dim,
        dec_embed_dim=dec_embed_dim,
        dec_depth=depth(state, "dec_blocks", source=source),
        dec_num_heads=say.dec_num_heads or dec_embed_dim // HEAD_DIM,
        mlp_hidden=len(state["dec_blocks.0.mlp.fc1.weight"]),
        head=_head_sizes(state, say, source=source),
    )


def depth(state: Mapping[str, Tensor], blocks: str, *, source: str) -> int:
    """Return the number of blocks named `blocks.N`.

    Raises:
        InvalidInput: the numbers have gaps: a depth is memory asked for, so a number alone is not believed.
    """
    numbers = {found[1] for name in state if (found := re.match(rf"{blocks}\.(\d+)\.", name))}
    if numbers != {str(number) for number in range(len(numbers))}:
        listed = some(sorted(numbers), limit=3)
        raise InvalidInput(f"{source}: expected {blocks}.0 to {blocks}.{len(numbers) - 1}, found numbers {listed}")
    return len(numbers)


def _head_sizes(state: Mapping[str, Tensor], say: Stated, *, source: str) -> HeadSizes:
    head = "downstream_head1."
    patch = state["patch_embed.proj.weight"].shape[-1]
    outputs = len(state[f"{head}head_local_features.fc2.weight"])
    if outputs % patch**2:
        raise InvalidInput(f"{source}: {outputs} outputs of the descriptor MLP: expected a multiple of {patch**2}")
    dims = [len(state[f"{head}dpt.act_postprocess.{i}.0.weight"]) for i in range(4)]
    return HeadSizes(
        patch_size=patch,
        layer_dims=(dims[0], dims[1], dims[2], dims[3]),
        feature_dim=len(state[f"{head}dpt.scratch.refinenet1.out_conv.weight"]),
        last_dim=len(state[f"{head}dpt.head.2.weight"]),
        desc_dim=outputs // patch**2 - say.modes.two_confs,
        desc_hidden=len(state[f"{head}head_local_features.fc1.weight"]),
        two_confs=say.modes.two_confs,
    )


def check_told(found: PairSizes, sizes: Mapping[str, Any], *, source: str, enc_depth: int | None = None) -> None:
    """Compare what a caller says with what the shapes say.

    Raises:
        InvalidInput: every difference is listed.
    """
    width = found.enc_embed_dim + found.dec_embed_dim
    told = {
        "patch_size": found.head.patch_size,
        "enc_embed_dim": found.enc_embed_dim,
        "enc_depth": enc_depth,
        "dec_embed_dim": found.dec_embed_dim,
        "dec_depth": found.dec_depth,
        "desc_dim": found.head.desc_dim,
        "dpt_layer_dims": list(found.head.layer_dims),
        "dpt_feature_dim": found.head.feature_dim,
        "dpt_last_dim": found.head.last_dim,
    }
    asked = {name: list(value) if isinstance(value, tuple) else value for name, value in sizes.items()}
    wrong = [
        f"{name} {asked[name]!r}, its weights have {value!r}"
        for name, value in told.items()
        if asked.get(name) is not None and value is not None and asked[name] != value
    ]
    factor = sizes.get("hidden_dim_factor")
    if factor is not None and int(factor * width) != found.head.desc_hidden:
        wrong.append(f"hidden_dim_factor {factor!r}, its weights have {found.head.desc_hidden} hidden of {width}")
    if wrong:
        raise InvalidInput(f"{source}: {'; '.join(wrong)}. Leave these out: the weights tell them")
