"""Names of a pair model's tensors in the released files. Only this module knows them.

MASt3R's files: `patch_embed.*`, `enc_blocks.*`, `enc_norm.*`, and decoder and heads as `PairDecoder` has them. DUNE's
variant: `norm.*`, and MASt3R's names without `enc_blocks` under `mast3r.`; its student has a file of its own.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from backbones import state_dicts
from eval.heads.mast3r.model import PairModel
from extract.teachers import mast3r as croco_files
from store.errors import InvalidInput

DECODER = "mast3r."
UNUSED = ("mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias", "enc_norm.weight", "enc_norm.bias")
CROCO_NAMES = {f"encoder.network.{ours}": theirs for theirs, ours in croco_files.ENCODER.items()}  # ours -> the file's


def completed(state: state_dicts.State, *, plain: bool, source: str) -> state_dicts.State:
    """Give tensors that files may leave out: one name of the doubled `layer_rn`, and MASt3R's second stream.

    Args:
        state: tensors under MASt3R's names.
        plain: a file of MASt3R, whose absent `dec_blocks2` mean copies of `dec_blocks`.
        source: name of the file in error messages.

    Raises:
        InvalidInput: the two names of one tensor have different values.
    """
    state = dict(state)
    differing = []
    for head in ("downstream_head1", "downstream_head2"):
        for number in range(4):
            scratch = f"{head}.dpt.scratch."
            names = (f"{scratch}layer{number + 1}_rn.weight", f"{scratch}layer_rn.{number}.weight")
            here = [name for name in names if name in state]
            if len(here) == 1:
                state |= {name: state[here[0]] for name in names}
            elif here and not torch.equal(state[names[0]], state[names[1]]):
                differing.append(" and ".join(names))
    if differing:
        raise InvalidInput(f"{source}: {differing[0]} are one tensor, found different values")
    if plain and not any(name.startswith("dec_blocks2.") for name in state):
        copies = {
            name.replace("dec_blocks.", "dec_blocks2.", 1): tensor
            for name, tensor in state.items()
            if name.startswith("dec_blocks.")
        }
        state |= copies
    return state


def released_names(model: PairModel) -> dict[str, str]:
    """Return the names of a model's tensors in the released layout: ours -> theirs. A student's are not in it."""
    names = {}
    for name in model.state_dict():
        if model.norm is not None:
            if not name.startswith("encoder."):
                names[name] = name
            continue
        prefix = next((ours for ours in CROCO_NAMES if name.startswith(ours)), "")
        names[name] = CROCO_NAMES[prefix] + name.removeprefix(prefix) if prefix else name.removeprefix(DECODER)
    return names


def fill(model: PairModel, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy the tensors of a file into a model, strictly; parameters on the meta device are given memory first.

    Raises:
        InvalidInput: missing, unexpected or misshapen tensors; every one is reported, under the file's names.
    """
    ours = {theirs: name for name, theirs in released_names(model).items()}
    own = model.state_dict()
    expected = {theirs: own[name] for theirs, name in ours.items()} | unused_shapes(model)
    state_dicts.check(expected, state, source=source)
    for part in (model.mast3r, model.encoder):
        if any(parameter.is_meta for parameter in part.parameters()):
            part.to_empty(device="cpu")
    used = {name: state[theirs] for theirs, name in ours.items()}
    model.load_state_dict(used, strict=model.norm is None)


def unused_shapes(model: PairModel) -> dict[str, Tensor]:
    """Return tensors with the shapes of those that a file has and nothing reads."""
    width, patch = model.encoder.embed_dim, model.patch_size
    mask = torch.empty(1, 1, model.mast3r.decoder_embed.out_features, device="meta")
    if model.norm is None:
        return {"mask_token": mask}
    shapes = {
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "enc_norm.weight": (width,),
        "enc_norm.bias": (width,),
    }
    made = {DECODER + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return made | {f"{DECODER}mask_token": mask}


def to_released(model: PairModel) -> dict[str, Tensor]:
    """Return the tensors of a model under the names of the released layout, a student's encoder left out.

    Tensors that nothing reads are those of the file that it was loaded from, else zero.
    """
    own = model.state_dict()
    tensors = {theirs: own[name].detach().cpu() for name, theirs in released_names(model).items()}
    for name, shape in unused_shapes(model).items():
        tensors[name] = model.unused.get(name, torch.zeros(shape.shape)).detach().cpu()
    return tensors
